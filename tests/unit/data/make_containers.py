#!/usr/bin/env python3
# Writes tests/unit/data/containers: files of torch.save() and of the gguf
# package, and what that package makes of quantised blocks.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# usage: make_containers.py    (torch, gguf, safetensors)
import os

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "containers")

# Where a block has its scales in half precision: random bytes there would be
# infinite or huge.
BLOCKS = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
          "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}


def pattern(shape, dtype):
    """Element i is (7 i mod 9 - 4) / 4 (integers: 7 i mod 9): the test knows."""
    n = torch.Size(shape).numel()
    x = (torch.arange(n) * 7) % 9
    if dtype == torch.bool:
        return (x > 4).reshape(shape)
    if dtype.is_floating_point:
        x = (x - 4).to(torch.float64) / 4
    return x.to(dtype).reshape(shape)


def save(name, value):
    torch.save(value, os.path.join(OUT, name))


def spread(x, step):
    """A view that has x's elements, in a storage with others between."""
    wide = torch.full((*x.shape, step), 77, dtype=x.dtype)
    wide[..., step - 1] = x
    return wide[..., step - 1]


def write_torch():
    f32 = torch.float32
    shared = pattern((4, 6), f32)
    part = torch.cat([torch.full((5,), 77.0), pattern((7,), f32),
                      torch.full((2,), 77.0)])
    tensors = {
        "f64": pattern((3, 5), torch.float64),
        "f32": pattern((2, 3, 4), f32),
        "f16": pattern((7,), torch.float16),
        "bf16": pattern((5, 1), torch.bfloat16),
        "f8_e4m3": pattern((11,), torch.float8_e4m3fn),
        "f8_e5m2": pattern((13,), torch.float8_e5m2),
        "i64": pattern((2, 2), torch.int64),
        "i32": pattern((3,), torch.int32),
        "i16": pattern((3,), torch.int16),
        "i8": pattern((5,), torch.int8),
        "u8": pattern((9,), torch.uint8),
        "bool": pattern((6,), torch.bool),
        "scalar": pattern((), f32),
        "empty": pattern((0, 4), f32),
        "parameter": torch.nn.Parameter(pattern((2, 3), f32)),
        "shared.a": shared, "shared.b": shared, "shared.rows": shared[:3],
        "offset": part[5:12],
        "transposed": pattern((4, 3), f32).t().contiguous().t(),
        "transposed.bf16": pattern((5, 7), torch.bfloat16).t().contiguous()
                           .t(),
        "spread": spread(pattern((3, 4), f32), 3),
        "spread.f8": spread(pattern((3, 4), torch.float8_e4m3fn), 3),
        "last.4d": pattern((2, 3, 2, 3), f32)
                   .to(memory_format=torch.channels_last),
        "last.5d": pattern((3, 4, 2, 2, 3), torch.float16)
                   .to(memory_format=torch.channels_last_3d),
    }
    inert = {"step": 7, "big": 2 ** 40, "less": -2 ** 40, "small": -3,
             "rate": 0.5, "text": "x" * 300, "none": None, "yes": True,
             "no": False, "list": [1, [2], ()], "dict": {"a": (1, 2, 3, 4)},
             "size": torch.Size([1, 2]), "device": torch.device("cpu"),
             "dtype": torch.float32}
    save("types.pt", {**tensors, **inert})
    good = {"w": pattern((2, 3), f32)}
    bad = {"w": torch.full((2, 3), 77.0)}
    save("ema.pt", {"critic": bad, "generator": bad, "step": 3,
                    "generator_ema": good})
    save("generator.pt", {"critic": bad, "generator": good})
    linear = torch.nn.Linear(3, 2, bias=False)
    linear.weight = torch.nn.Parameter(pattern((2, 3), f32))
    save("module.pt", {"state_dict": torch.nn.ModuleDict(
        {"w": linear}).state_dict(), "optimizer": {0: [1, 2]}})
    torch.save(good, os.path.join(OUT, "protocol4.pt"), pickle_protocol=4)
    torch.save(good, os.path.join(OUT, "legacy.pt"),
               _use_new_zipfile_serialization=False)
    save("module-object.pt", linear)


def random_blocks(rng, name, shape):
    kind = gguf.GGMLQuantizationType[name]
    size, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (np.prod(shape) // size, n_bytes),
                          dtype=np.uint8)
    for at in BLOCKS[name]:
        d = rng.normal(0, 0.05, len(blocks)).astype(np.float16)
        d[0] = 6e-8  # the smallest
        d[-1] = -0.5
        blocks[:, at:at + 2] = d.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1), kind


def write_gguf():
    rng = np.random.default_rng(4)
    writer = gguf.GGUFWriter(os.path.join(OUT, "blocks.gguf"), "wan")
    reference = {}
    for name in BLOCKS:
        shape = (2, 512)
        data, kind = random_blocks(rng, name, shape)
        writer.add_tensor(name.lower(), data, raw_dtype=kind)
        reference[name.lower()] = dequantize(data, kind).reshape(shape)
    data, kind = random_blocks(rng, "Q4_0", (4, 256))
    writer.add_tensor("reshaped", data, raw_dtype=kind)
    writer.add_array("comfy.gguf.orig_shape.reshaped", [8, 2, 64])
    reference["reshaped"] = dequantize(data, kind).reshape(8, 2, 64)
    for dtype in ("float32", "float64", "float16", "int8", "int16", "int32",
                  "int64"):
        x = pattern((3, 5), getattr(torch, dtype)).numpy()
        writer.add_tensor(dtype[0] + "".join(filter(str.isdigit, dtype)), x)
    bf16 = pattern((3, 5), torch.bfloat16).view(torch.int16).numpy()
    writer.add_tensor("bf16", bf16.view(np.uint8),
                      raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("five", pattern((2, 1, 3, 1, 2), torch.float32).numpy())
    writer.add_tokenizer_model("t5")
    writer.add_token_list(["<pad>", "</s>", "\u2581cat"])
    writer.add_token_scores([0.0, 0.0, -1.5])
    writer.add_token_types([3, 3, 1])
    writer.add_add_space_prefix(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(reference, os.path.join(OUT, "blocks.safetensors"))


os.makedirs(OUT, exist_ok=True)
torch.manual_seed(0)
write_torch()
write_gguf()
