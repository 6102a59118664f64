"""A text encoder of UMT5-XXL's size in a file, for measuring how fast weights
are read: 11.4 GB of random numbers, official names, bf16.

SPDX-License-Identifier: BSD-2-Clause

    python3 tests/gpu/text_encoder.py /dev/shm/t5.safetensors
    causvid bench --device cuda --model random:wan-1.3b --variant causal \\
        --text_encoder /dev/shm/t5.safetensors --vram 12G

With --tiny it has the shapes of random:tiny.
"""
import argparse
import json
import math
import struct

import torch

XXL = dict(vocab=256384, dim=4096, inner=4096, ffn=10240, heads=64, layers=24)
TINY = dict(vocab=8192, dim=128, inner=128, ffn=256, heads=2, layers=2)
CHUNK = 1 << 24  # numbers; the same ones follow each other


def shapes(size):
    dim, inner, ffn = size["dim"], size["inner"], size["ffn"]
    yield "token_embedding.weight", (size["vocab"], dim)
    yield "norm.weight", (dim,)
    for i in range(size["layers"]):
        block = f"blocks.{i}."
        for name in ("norm1", "norm2"):
            yield block + name + ".weight", (dim,)
        for name in "qkv":
            yield f"{block}attn.{name}.weight", (inner, dim)
        yield block + "attn.o.weight", (dim, inner)
        yield (block + "pos_embedding.embedding.weight",
               (32, size["heads"]))
        for name in ("gate.0", "fc1"):
            yield f"{block}ffn.{name}.weight", (ffn, dim)
        yield block + "ffn.fc2.weight", (dim, ffn)


def scale(name, shape):
    """As engine/weights/random.c has them: activations keep their size."""
    if name == "token_embedding.weight":
        return math.sqrt(3)
    if "pos_embedding" in name:
        return 0.5
    return math.sqrt(3 / shape[-1]) / (8 if ".attn.q." in name else 1)


def numbers(name, shape, base):
    """The bytes of a tensor, a piece at a time."""
    n = math.prod(shape)
    if len(shape) == 1:
        base = torch.ones_like(base[:n])
    else:
        base = base * scale(name, shape)
    base = base.to(torch.bfloat16).view(torch.int16).numpy()
    for first in range(0, n, CHUNK):
        yield base[:min(CHUNK, n - first)].tobytes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    tensors = list(shapes(TINY if args.tiny else XXL))
    header, at = {}, 0
    for name, shape in tensors:
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape,
                        "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    base = torch.rand(CHUNK, generator=torch.Generator().manual_seed(1))
    base = base * 2 - 1
    with open(args.path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            for piece in numbers(name, shape, base):
                file.write(piece)
    print(f"{args.path}: {len(tensors)} tensors, {at / 1e9:.1f} GB")


main()
