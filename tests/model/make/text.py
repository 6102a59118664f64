#!/usr/bin/env python3
"""Make the text encoder's fixtures with transformers' UMT5EncoderModel.

SPDX-License-Identifier: BSD-2-Clause

Usage: text.py [FOLDER]      (default: ../fixtures/text beside this script)

Each model is a small random one whose weights are "alive": norms differ from
1, every layer's position table matters, scores spread enough for the softmax
to choose. Sizes are odd, heads * d_kv is not d_model. FOLDER/MODEL holds what
save_pretrained writes and cases.safetensors: case.N.ids [n] (int64) and
case.N.embeds [n, d_model]. As in Wan, the reference runs on 512 positions with
a mask, and the first n rows are kept.
"""
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

ROWS = 512

# name: sizes, tokens of each case. 200 and 512 tokens reach the buckets of
# distances beyond 91 (the last one) in both directions.
MODELS = {
    "odd": (dict(vocab_size=101, d_model=24, d_kv=10, num_heads=3, d_ff=37,
                 num_layers=3, layer_norm_epsilon=1e-6), (1, 5, 37, 200)),
    # Half the buckets, an epsilon that shows, weights stored as bfloat16.
    "bf16": (dict(vocab_size=67, d_model=20, d_kv=8, num_heads=4, d_ff=31,
                  num_layers=2, layer_norm_epsilon=1e-2,
                  relative_attention_num_buckets=16), (9, 512)),
    # Official names, no config.
    "official": (dict(vocab_size=33, d_model=16, d_kv=4, num_heads=5, d_ff=19,
                      num_layers=2, layer_norm_epsilon=1e-6), (13,)),
}

OFFICIAL = [
    ("shared.", "token_embedding."),
    ("encoder.final_layer_norm.", "norm."),
    ("encoder.block.", "blocks."),
    ("layer.0.layer_norm.", "norm1."),
    ("layer.0.SelfAttention.relative_attention_bias.",
     "pos_embedding.embedding."),
    ("layer.0.SelfAttention.", "attn."),
    ("layer.1.layer_norm.", "norm2."),
    ("layer.1.DenseReluDense.wi_0.", "ffn.gate.0."),
    ("layer.1.DenseReluDense.wi_1.", "ffn.fc1."),
    ("layer.1.DenseReluDense.wo.", "ffn.fc2."),
]


def make_alive(model):
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter.data)
        if parameter.ndim == 1:
            parameter.data.copy_(1 + 0.3 * noise)
        elif "relative_attention_bias" in name or "shared" in name:
            parameter.data.copy_(noise)
        else:
            parameter.data.copy_(noise / parameter.shape[1] ** 0.5)


def rename(folder):
    """Official names in place of those that save_pretrained wrote."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {}
    for name, tensor in load_file(path).items():
        if name == "encoder.embed_tokens.weight":
            continue
        for old, new in OFFICIAL:
            name = name.replace(old, new)
        tensors[name] = tensor
    save_file(tensors, path)
    os.remove(os.path.join(folder, "config.json"))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        here, "..", "fixtures", "text")
    for seed, (name, (sizes, counts)) in enumerate(MODELS.items()):
        torch.manual_seed(100 + seed)
        folder = os.path.join(root, name)
        model = UMT5EncoderModel(UMT5Config(
            **sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0)).eval()
        make_alive(model)
        if name == "bf16":
            model.bfloat16().save_pretrained(folder)
            model.float()
        else:
            model.save_pretrained(folder)
        if name == "official":
            rename(folder)
        cases = {}
        for i, n in enumerate(counts):
            ids = torch.zeros(1, ROWS, dtype=torch.long)
            ids[0, :n] = torch.randint(0, sizes["vocab_size"], (n,))
            mask = (torch.arange(ROWS) < n).long()[None]
            with torch.no_grad():
                embeds = model(input_ids=ids,
                               attention_mask=mask).last_hidden_state
            cases["case.%d.ids" % i] = ids[0, :n].clone()
            cases["case.%d.embeds" % i] = embeds[0, :n].clone()
            print(name, n, "tokens: rms %.2f" %
                  float(embeds[0, :n].pow(2).mean().sqrt()))
        save_file(cases, os.path.join(folder, "cases.safetensors"))


if __name__ == "__main__":
    main()
