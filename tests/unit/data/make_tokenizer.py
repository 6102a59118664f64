"""A small vocabulary and vectors for the tokenizer.

    python3 make_tokenizer.py                   writes tokenizer.model, .tsv
    python3 make_tokenizer.py 60000 7 > x.tsv   random vectors, with a seed
    build/tests/unit/test_tokenizer x.tsv       compares with them

The vocabulary is laid out as UMT5's: <pad> </s> <s> <unk>, a user defined
piece, byte pieces, then parts of the words below with random scores, some of
them equal, so that many ways to cut a text compete. The reference is the
tokenizers library, put together as Hugging Face does for UMT5: Unigram without
byte fallback, one Metaspace, no normaliser, 300 sentinels. A line is a text,
its ids with </s> (at most 512), and their number before truncation. Needs
sentencepiece and tokenizers.
"""
import os
import random
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (AddedToken, Tokenizer, models, pre_tokenizers,
                        processors)

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "tokenizer.model")

WORDS = """a the an of in on and with over under near two three red green blue
yellow circle square triangle cat dog fox bird moves runs jumps sits walks
slowly quickly left right up down background kitchen street night rain forest
mountain river camera pans wooden spoon light window cinematic photo realistic
4k 1080p it's don't e-mail [web] ... !! ?? -- 2024 3.14 caf\u00e9 na\u00efve
r\u00e9sum\u00e9 Z\u00fcrich S\u00e3o Paulo stra\u00dfe \u00e9t\u00e9
\u043a\u043e\u0448\u043a\u0430 \u0431\u0435\u0436\u0438\u0442
\u0627\u0644\u0642\u0637 \u0e41\u0e21\u0e27 \uace0\uc591\uc774""".split()
WIDE = ("\u5915\u713c\u3051\u306e\u6d77\u3068\u732b \u8272\u8c03\u8273\u4e3d"
        "\u8fc7\u66dd\u9759\u6001\u7ec6\u8282\u6a21\u7cca\u4e0d\u6e05"
        "\u5b57\u5e55\u98ce\u683c \u753b\u9762\u9759\u6b62 "
        "\u30ab\u30bf\u30ab\u30ca \u5012\u7740\u8d70").split()
CHARACTERS = ("\u33c4\ufb52\ufb01\U0001d504\U0001f600\u200b\u2019\u2581\u3000"
              "\uff0c<>&#|{}~`^_=+*/\\@")


def build():
    rng = random.Random(3)
    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece

    def add(piece, score, kind):
        model.pieces.add(piece=piece, score=score, type=kind)

    for piece in ("<pad>", "</s>", "<s>"):
        add(piece, 0.0, kinds.CONTROL)
    add("<unk>", 0.0, kinds.UNKNOWN)
    add("[web]", 0.0, kinds.USER_DEFINED)
    for byte in range(256):
        add("<0x%02X>" % byte, 0.0, kinds.BYTE)
    parts = {"\u2581": 2.5}
    for word in WORDS:
        word = "\u2581" + word
        for _ in range(7):
            i = rng.randrange(len(word))
            parts[word[i:i + rng.randint(1, 6)]] = 4.0
        parts[word] = 6.0
    for word in WIDE:
        for _ in range(5):
            i = rng.randrange(len(word))
            parts[word[i:i + rng.randint(1, 3)]] = 7.0
    for char in "".join(WORDS + WIDE) + CHARACTERS + "!?.-,":
        parts[char] = 5.0
    for text in ("!!", "...", "??", "--", "aa"):
        parts[text] = 4.5
    # Steps of 1/8 make equal scores; the rest has float32's full width.
    for piece, score in sorted(parts.items()):
        if piece != "[web]":
            score += rng.uniform(0, 8)
            add(piece, -(int(score * 8) / 8 if rng.random() < 0.5 else score),
                kinds.NORMAL)
    # "\u9f98\u9f8d" "!" wins over unknown "\u9f8d!" by 1/2, and
    # "\u9f98\u9f9c" "!" loses by 1/2, if an unknown costs 10.
    scores = {p.piece: p.score for p in model.pieces}
    least = min(scores.values())
    add("\u9f98\u9f8d", least, kinds.NORMAL)
    add("\u9f8d!", scores["!"] + 9.5, kinds.NORMAL)
    add("\u9f98\u9f9c", least, kinds.NORMAL)
    add("\u9f9c!", scores["!"] + 10.5, kinds.NORMAL)
    model.trainer_spec.model_type = 1
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = 3
    model.trainer_spec.bos_id = 2
    model.trainer_spec.eos_id = 1
    model.trainer_spec.pad_id = 0
    model.trainer_spec.pad_piece = "<pad>"
    model.normalizer_spec.name = "identity"
    data = model.SerializeToString(deterministic=True)
    sentencepiece.SentencePieceProcessor(model_proto=data)  # takes it
    with open(MODEL, "wb") as out:
        out.write(data)


def reference():
    model = sentencepiece_model_pb2.ModelProto()
    with open(MODEL, "rb") as source:
        model.ParseFromString(source.read())
    pieces = [(p.piece, p.score) for p in model.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3,
                                         byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="always")
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True)
         for t in ["<pad>", "</s>", "<s>", "<unk>"] +
         ["<extra_id_%d>" % i for i in range(299, -1, -1)]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)])
    assert tokenizer.token_to_id("<extra_id_299>") == len(pieces)
    return tokenizer, [p for p, _ in pieces]


CASES = [
    "", " ", "  ", "cat", "a red circle moves right", " leading", "trailing ",
    "two  spaces   three", "a\u2581b cat", "a \u2581b", "\u2581\u2581 \u2581",
    "[web] page", "x[web]y [web][web]", "\ufb01ne", "it's \"quoted\"",
    "\u33c4 \ufb52 \U0001d504\U0001f600", "x\u200by", "a\u3000b\uff0cc",
    "\u5915\u713c\u3051\u306e\u6d77\u3068\u732b", "\u9f98\u9f98\u9f98 \u9f98",
    "\u2603 \u2603\u2603 \u2603x\u2603", "\U0001f9ff\u9f98cat\u9f98", "\x7f",
    "tab\there line\nthere", "<0x41> <0x0A>", "</s>", "a </s> b", "a</s>b",
    "<pad> <s>x<unk>", "</s", "<<s>>", "<s></s><s> ", "<unk><unk>\u9f98\u9f98",
    "<extra_id_0>", "a <extra_id_299> b", "<extra_id_300>", "<extra_id_00>",
    "<extra_id_>", "<extra_id_12", "<extra_id_7><extra_id_70>x",
    "<extra_id_-1>", "<extra_id_ 1>", "<EXTRA_ID_1>", "x <extra_id_5>",
    "\u9f98\u9f8d! \u9f98\u9f98\u9f8d!!", "\u9f98\u9f9c! x\u9f98\u9f9c!x",
    "!", "!!", "!!!", "!!!!!!!!!!!", "...........", "aaaaaaaaaaaaaaaa",
    "\u8272" * 30, "----- ??????? " * 3,
    ("a " * 511).strip(), ("a " * 512).strip(), "a " * 255 + "a </s>" * 99,
    "".join(WIDE) * 12, "\u9f98" * 600,
]


def random_text(rng, pieces):
    kind = rng.random()
    if kind < 0.3:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if kind < 0.6:
        return "".join(rng.choice(pieces[4:]).replace("\u2581", " ")
                       for _ in range(rng.randint(1, 20)))
    if kind < 0.7:
        return "".join(rng.choice(WIDE + ["!", "...", "\u9f98"])
                       for _ in range(rng.randint(1, 40)))
    if kind < 0.75:
        return rng.choice("!.?-ae\u8272") * rng.randint(1, 60)
    parts = ([chr(c) for c in range(32, 127)] + list("    ") +
             list(CHARACTERS) +
             ["\u9f98", "\u9f98\u9f8d!", "\u00e9", "\u0301", "\t", "\n",
              "</s>", "<unk>", "<extra_id_3>", "<0x20>", "[web]", "<", ">"])
    return "".join(rng.choice(parts) for _ in range(rng.randint(1, 30)))


def escape(text):
    return "".join(c if " " <= c <= "~" and c != "\\" else
                   "\\\\" if c == "\\" else "\\u{%x}" % ord(c) for c in text)


def write(out, tokenizer, cases):
    for text in cases:
        ids = tokenizer.encode(text).ids
        kept = ids if len(ids) <= 512 else ids[:511] + [1]
        out.write("%s\t%s\t%d\n" % (escape(text), " ".join(map(str, kept)),
                                    len(ids)))


def main():
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    if len(sys.argv) > 1:
        tokenizer, pieces = reference()
        write(sys.stdout, tokenizer, (random_text(rng, pieces)
                                      for _ in range(int(sys.argv[1]))))
        return
    build()
    tokenizer, pieces = reference()
    with open(os.path.join(HERE, "tokenizer.tsv"), "w",
              encoding="ascii") as out:
        write(out, tokenizer, CASES + [random_text(rng, pieces)
                                       for _ in range(300)])
    # The reference's own truncation agrees with the one above.
    tokenizer.enable_truncation(512)
    for text in CASES:
        ids = tokenizer.encode(text).ids
        assert len(ids) <= 512 and ids[-1] == 1


if __name__ == "__main__":
    main()
