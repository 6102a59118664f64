"""Trains the SentencePiece vocabulary of the sample model and writes the
tokenizer folder in the layout of transformers.

Unigram, no normalisation, ids as in UMT5: 0 <pad>, 1 </s>, 2 <s>, 3 <unk>.
All printable ASCII characters are pieces, so every English prompt has tokens.

    python3 tokenizer.py OUTPUT_FOLDER
"""
import json
import os
import random
import sys
import tempfile

import sentencepiece

import data

MAX_TOKENS = 47          # with </s>; training sees no longer prompt


def corpus(path, lines=40000):
    rng = random.Random(11)
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(lines):
            out.write(data.caption(rng, data.sample_scene(rng)) + "\n")
        for _ in range(lines // 10):
            words = rng.choices(data.FILLERS, k=rng.randint(2, 8))
            out.write(" ".join(words) + "\n")


def train(folder):
    from sentencepiece import sentencepiece_model_pb2
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        text = os.path.join(scratch, "corpus.txt")
        corpus(text)
        sentencepiece.SentencePieceTrainer.train(
            input=text, model_prefix=os.path.join(scratch, "spiece"),
            model_type="unigram", vocab_size=700, hard_vocab_limit=False,
            character_coverage=1.0, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
            pad_piece="<pad>", eos_piece="</s>", bos_piece="<s>",
            unk_piece="<unk>", normalization_rule_name="identity",
            add_dummy_prefix=True, remove_extra_whitespaces=False,
            required_chars="".join(chr(c) for c in range(33, 127)),
            num_threads=1, input_sentence_size=0, minloglevel=1)
        with open(os.path.join(scratch, "spiece.model"), "rb") as source:
            model = sentencepiece_model_pb2.ModelProto.FromString(
                source.read())
    # Where it was trained is of no interest to anybody.
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    with open(os.path.join(folder, "spiece.model"), "wb") as out:
        out.write(model.SerializeToString())
    config = {"tokenizer_class": "T5Tokenizer", "vocab_file": "spiece.model",
              "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>",
              "unk_token": "<unk>", "extra_ids": 0,
              "additional_special_tokens": [], "model_max_length": 512,
              "legacy": False, "add_bos_token": False}
    with open(os.path.join(folder, "tokenizer_config.json"), "w",
              encoding="utf-8") as out:
        json.dump(config, out, indent=2)
        out.write("\n")
    tokens = {k: config[k] for k in
              ("pad_token", "eos_token", "bos_token", "unk_token")}
    with open(os.path.join(folder, "special_tokens_map.json"), "w",
              encoding="utf-8") as out:
        json.dump(tokens, out, indent=2)
        out.write("\n")


class Tokenizer:
    def __init__(self, folder):
        self.model = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(folder, "spiece.model"))
        self.size = self.model.get_piece_size()

    def ids(self, text):
        """Token ids with </s>, at most MAX_TOKENS."""
        return self.model.encode(text)[:MAX_TOKENS - 1] + [1]


if __name__ == "__main__":
    train(sys.argv[1])
    tok = Tokenizer(sys.argv[1])
    print(tok.size, "pieces")
    for line in ("a red circle moves right on a blue background",
                 "A photo of 2 dogs (cinematic), 4k!", "TURQUOISE Ring"):
        print(tok.model.encode(line, out_type=str), tok.ids(line))
    counts = []
    seed = random.Random(5)
    for _ in range(3000):
        counts.append(len(tok.model.encode(
            data.caption(seed, data.sample_scene(seed)))) + 1)
    counts.sort()
    print("tokens: median", counts[1500], "99 %", counts[2970],
          "most", counts[-1])
