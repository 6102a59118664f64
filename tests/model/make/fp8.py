#!/usr/bin/env python3
"""Write the model of containers.py with weights in fp8, as users have them.

SPDX-License-Identifier: BSD-2-Clause

Usage: fp8.py        ../fixtures/containers/safetensors -> ../fixtures/fp8

Each layout is a folder with transformer/ and text_encoder/ in fp8, and beside
it, as <layout>-float32, the same numbers in float32, by PyTorch:
  plain      a cast without scales (Kijai's): E4M3, the text encoder E5M2 with
             its embedding
  comfy-old  ComfyUI's: a marker scaled_fp8, X.scale_weight, X.scale_input
  comfy-new  the same numbers as X.weight_scale and X.comfy_quant; of the text
             encoder, the metadata of the file says the format
  rows       a scale for each row: [o, 1] as LightX2V has it, and [o]
Matrices of blocks are in fp8, everything else is as it was. lora.safetensors
changes half of them.
"""
import json
import os
import shutil

import torch
from safetensors.torch import save_file

from containers import HERE, TEXT, TRANSFORMER, read_model, renamed

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
QUANT = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}


def is_quantised(name, t):
    return (t.ndim == 2 and ("block" in name) and name.endswith(".weight") and
            "relative_attention_bias" not in name and
            "pos_embedding" not in name)


def quantise(tensors, kind, scales, embedding=False):
    """{name: fp8 or as it was}, {module: scale}, {name: float32 of that};
    scales: "none", "one" or "rows"."""
    stored, factors, floats = {}, {}, {}
    for name, t in tensors.items():
        t = t.float()
        if not is_quantised(name, t) and not (
                embedding and name == "token_embedding.weight"):
            stored[name] = floats[name] = t.contiguous()
            continue
        scale = torch.tensor(1.0)
        if scales == "one":
            scale = t.abs().max() / torch.finfo(kind).max
        elif scales == "rows":
            scale = t.abs().amax(1, keepdim=True) / torch.finfo(kind).max
        stored[name] = (t / scale).to(kind)
        floats[name] = stored[name].float() * scale
        if scales != "none":
            factors[name[:-len(".weight")]] = scale
    return stored, factors, floats


def note(kind):
    return {"format": QUANT[kind]}


def as_bytes(value):
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def main():
    fixtures = os.path.join(HERE, "..", "fixtures")
    out = os.path.join(fixtures, "fp8")
    model = read_model(os.path.join(fixtures, "containers", "safetensors"))
    dit = renamed(model["transformer"], TRANSFORMER)
    text = model["text_encoder"]
    shutil.rmtree(out, ignore_errors=True)

    def put(layout, part, tensors, metadata=None):
        folder = os.path.join(out, layout, part)
        os.makedirs(folder, exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()},
                  os.path.join(folder, "model.safetensors"), metadata)

    stored, _, floats = quantise(dit, E4M3, "none")
    put("plain", "transformer", stored)
    put("plain-float32", "transformer", floats)
    stored, _, floats = quantise(renamed(text, TEXT), E5M2, "none", True)
    put("plain", "text_encoder", stored)
    put("plain-float32", "text_encoder", floats)

    stored, factors, floats = quantise(dit, E4M3, "one")
    prefix = "model.diffusion_model."
    old = {prefix + k: v for k, v in stored.items()}
    old[prefix + "scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    new = dict(old)
    del new[prefix + "scaled_fp8"]
    for name, scale in factors.items():
        old[prefix + name + ".scale_weight"] = scale
        old[prefix + name + ".scale_input"] = torch.tensor(0.5)
        new[prefix + name + ".weight_scale"] = scale
        new[prefix + name + ".input_scale"] = torch.tensor(0.5)
        new[prefix + name + ".comfy_quant"] = as_bytes(note(E4M3))
    put("comfy-old", "transformer", old)
    put("comfy-new", "transformer", new)
    put("comfy-old-float32", "transformer", floats)
    stored, factors, floats = quantise(text, E4M3, "one")
    old, new, layers = dict(stored), dict(stored), {}
    old["scaled_fp8"] = torch.zeros(0, dtype=E4M3)
    for name, scale in factors.items():
        old[name + ".scale_weight"] = scale
        new[name + ".weight_scale"] = scale.reshape(1)
        layers[name] = note(E4M3) | {"full_precision_matrix_mult": True}
    put("comfy-old", "text_encoder", old)
    put("comfy-new", "text_encoder", new,
        {"format": "pt", "_quantization_metadata": json.dumps(
            {"format_version": "1.0", "layers": layers})})
    put("comfy-old-float32", "text_encoder", floats)

    stored, factors, floats = quantise(dit, E4M3, "rows")
    put("rows", "transformer", stored | {k + ".weight_scale": v
                                         for k, v in factors.items()})
    put("rows-float32", "transformer", floats)
    stored, factors, floats = quantise(renamed(text, TEXT), E5M2, "rows")
    put("rows", "text_encoder", stored | {k + ".weight_scale": v.flatten()
                                          for k, v in factors.items()})
    put("rows-float32", "text_encoder", floats)

    torch.manual_seed(3)
    lora = {}
    for name, t in dit.items():
        if is_quantised(name, t) and "cross_attn" not in name:
            key = "diffusion_model." + name[:-len("weight")]
            lora[key + "lora_down.weight"] = torch.randn(2, t.shape[1]) / 4
            lora[key + "lora_up.weight"] = torch.randn(t.shape[0], 2) / 4
    save_file(lora, os.path.join(out, "lora.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
