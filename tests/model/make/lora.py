#!/usr/bin/env python3
"""Write LoRA files in the styles of the programs that make them, and merge them.

SPDX-License-Identifier: BSD-2-Clause

Usage: lora.py [FOLDER]      (default: ../fixtures/lora beside this script)

For the transformer of fixtures/clip. One set of changes in every style; its
numbers are small fractions of powers of two, so that each sum is exact in
float32 in any order and merged.safetensors holds the only right bits:
  kijai         diffusion_model.<official>.lora_A/B.weight, .diff, .diff_b,
                .diff_m; as ComfyUI, Kijai and LightX2V write them
  kohya         lora_unet_<official with '_'>.lora_down/up.weight and .alpha
  diffusers     transformer.<diffusers>.lora_A/B.weight
  peft          base_model.model.<official>.lora_A.default.weight, torch.save()
                of {"generator_lora": ...}, as LongLive has it
  blocks, rest  the same in two files: blocks.0, and everything else
Styles but Kijai's have no whole differences: their merge is
merged-pairs.safetensors. And numbers that have to be rounded:
  random        official names, alpha, another rank in each layer, float16
merged-random.safetensors is model + 0.7 * random - 1.5 * kijai, summed up in
float64.
"""
import os
import sys

import torch
from safetensors.torch import load_file, save_file

from containers import TRANSFORMER

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "../fixtures/clip/model/transformer",
                     "diffusion_pytorch_model.safetensors")


def official(name):
    for pattern, replacement in TRANSFORMER:
        name = pattern.sub(replacement, name)
    return name


def fractions(shape, largest=8, unit=64):
    """Multiples of 1 / unit below largest / unit."""
    return torch.randint(-largest, largest + 1, shape).float() / unit


def is_linear(name, tensor):
    return name.endswith(".weight") and tensor.dim() == 2


def exact_changes(model):
    """{diffusers name: (up, down) or difference}; a rank of 4."""
    changes = {}
    for name, tensor in model.items():
        if is_linear(name, tensor):
            changes[name] = (fractions((tensor.shape[0], 4)),
                             fractions((4, tensor.shape[1])))
        else:
            changes[name] = fractions(tensor.shape)
    return changes


def product(change):
    return change[0] @ change[1] if isinstance(change, tuple) else change


def merge(model, terms, dtype=torch.float32):
    """model + sum of factor * change."""
    merged = {name: tensor.to(dtype) for name, tensor in model.items()}
    for factor, changes in terms:
        for name, change in changes.items():
            if isinstance(change, tuple):
                change = tuple(part.to(dtype) for part in change)
            merged[name] = merged[name] + factor * product(change).to(
                dtype).reshape(merged[name].shape)
    return {name: tensor.float() for name, tensor in merged.items()}


def module(name):
    return name.rsplit(".", 1)[0] if "." in name else ""


def kijai(changes):
    out = {}
    for name, change in changes.items():
        name = official(name)
        stem = "diffusion_model." + module(name)
        if isinstance(change, tuple):
            out[f"{stem}.lora_A.weight"] = change[1].bfloat16()
            out[f"{stem}.lora_B.weight"] = change[0].bfloat16()
        else:
            end = {"weight": "diff", "bias": "diff_b",
                   "modulation": "diff_m"}[name.rsplit(".", 1)[1]]
            out[f"{stem}.{end}"] = change.half()
    return out


def pairs_only(changes):
    return {n: c for n, c in changes.items() if isinstance(c, tuple)}


def kohya(changes):
    """alpha 2 of rank 4: the lower factor is twice as large."""
    out = {}
    for name, (up, down) in changes.items():
        stem = "lora_unet_" + module(official(name)).replace(".", "_")
        out[f"{stem}.lora_down.weight"] = 2 * down
        out[f"{stem}.lora_up.weight"] = up
        out[f"{stem}.alpha"] = torch.tensor(2.0)
    return out


def styled(changes, prefix, rename, a, b):
    out = {}
    for name, (up, down) in changes.items():
        stem = prefix + module(rename(name))
        out[stem + a], out[stem + b] = down, up
    return out


def random_changes(model):
    changes, file = {}, {}
    for i, (name, tensor) in enumerate(model.items()):
        if not is_linear(name, tensor):
            continue
        rank = 1 + i % 7
        alpha = float(rank) * (0.5 + 0.1 * (i % 11))
        up = torch.randn(tensor.shape[0], rank).half()
        down = (0.1 * torch.randn(rank, tensor.shape[1])).half()
        stem = module(official(name))
        file[f"{stem}.lora_up.weight"] = up
        file[f"{stem}.lora_down.weight"] = down
        file[f"{stem}.alpha"] = torch.tensor(alpha)
        alpha = file[f"{stem}.alpha"].item()
        changes[name] = (up.double() * (alpha / rank), down.double())
    return changes, file


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        HERE, "../fixtures/lora")
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(4)
    model = load_file(MODEL)
    changes = exact_changes(model)
    pairs = pairs_only(changes)

    def save(name, tensors):
        save_file({k: v.contiguous() for k, v in tensors.items()},
                  os.path.join(out, name + ".safetensors"))

    save("kijai", kijai(changes))
    save("kohya", kohya(pairs))
    save("diffusers", styled(pairs, "transformer.", lambda n: n,
                             ".lora_A.weight", ".lora_B.weight"))
    torch.save({"generator_lora": styled(
        pairs, "base_model.model.", official, ".lora_A.default.weight",
        ".lora_B.default.weight"), "step": 1000},
        os.path.join(out, "peft.pt"))
    save("blocks", kijai({n: c for n, c in changes.items()
                          if n.startswith("blocks.0.")}))
    save("rest", kijai({n: c for n, c in changes.items()
                        if not n.startswith("blocks.0.")}))
    save("merged", merge(model, [(1, changes)]))
    save("merged-pairs", merge(model, [(1, pairs)]))
    random, file = random_changes(model)
    save("random", file)
    save("merged-random", merge(model, [(0.7, random), (-1.5, changes)],
                                torch.float64))


if __name__ == "__main__":
    main()
