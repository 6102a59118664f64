#!/usr/bin/env python3
"""A spiece.model as a GGUF file, as llama.cpp's converter writes it for T5.

SPDX-License-Identifier: BSD-2-Clause

    python3 make_gguf_tokenizer.py                   writes tokenizer.gguf here,
        and tests/model/fixtures/containers/tokenizer.gguf
    python3 make_gguf_tokenizer.py SPIECE OUT ROWS   of a spiece.model

After ggml-org/llama.cpp convert_hf_to_gguf.py, T5Model.set_vocab: the lists
have an entry for each of the text encoder's ROWS, of which the last ones have
no piece (UMT5: 256384 for 256000). Files in use hold the encoder's tensors as
well. Needs gguf and sentencepiece.
"""
import os
import sys

import gguf
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as model

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "..", "..", "model", "fixtures")


def add(writer, source, rows):
    with open(source, "rb") as f:
        data = f.read()
    settings = model.ModelProto()
    settings.ParseFromString(data)
    spiece = SentencePieceProcessor(model_proto=data)
    types = gguf.TokenType
    tokens = ["[PAD%d]" % i for i in range(rows)]
    scores = [-10000.0] * rows
    kinds = [types.UNUSED] * rows
    for i in range(spiece.vocab_size()):
        tokens[i] = spiece.IdToPiece(i)
        scores[i] = spiece.GetScore(i)
        kinds[i] = (types.UNKNOWN if spiece.IsUnknown(i) else
                    types.CONTROL if spiece.IsControl(i) else
                    types.UNUSED if spiece.IsUnused(i) else
                    types.BYTE if spiece.IsByte(i) else types.NORMAL)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    normal = settings.normalizer_spec
    writer.add_add_space_prefix(normal.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(normal.remove_extra_whitespaces)
    if normal.precompiled_charsmap:
        writer.add_precompiled_charsmap(normal.precompiled_charsmap)
    writer.add_eos_token_id(spiece.eos_id())
    writer.add_pad_token_id(spiece.pad_id())


def write(source, out, rows):
    writer = gguf.GGUFWriter(out, "t5encoder")
    add(writer, source, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        write(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        spiece = os.path.join(HERE, "tokenizer.model")
        n = SentencePieceProcessor(model_file=spiece).vocab_size()
        write(spiece, os.path.join(HERE, "tokenizer.gguf"), n + 384)
        spiece = os.path.join(FIXTURES, "clip", "model", "tokenizer",
                              "spiece.model")
        n = SentencePieceProcessor(model_file=spiece).vocab_size()
        write(spiece, os.path.join(FIXTURES, "containers", "tokenizer.gguf"),
              n + 2)
