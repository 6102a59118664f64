#!/usr/bin/env python3
"""Write a diffusers folder in the other layouts that users have.

SPDX-License-Identifier: BSD-2-Clause

Usage: layouts.py MODEL OUT            MODEL -> OUT/<layout>/...
       layouts.py MODEL OUT PROGRAM    and run each with `PROGRAM trace`

By safetensors, PyTorch and the gguf package; tensors keep their types, but for
GGUF's, which are float32:
  release     the folder of Wan-AI's repositories
  causvid     CausVid's program: model.pt, the release in wan_models/
  forcing     Self-Forcing's, with an average and FSDP's names
  comfyui     ComfyUI's folders, the tokenizer in the text encoder's file
  combined    one checkpoint with everything
  kijai       Kijai's files in one folder
  gguf        city96's, the tokenizer in the text encoder's file
With PROGRAM, a copy of MODEL is written as `diffusers` first, and what it and
the layouts compute is compared bit by bit. Files without a config have no latent
statistics of their own, so that MODEL gets Wan's, and heads of 128.
    layouts.py samples/shapes /tmp/layouts build/bin/causvid
"""
import json
import os
import re
import shutil
import subprocess
import sys

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from containers import (HERE, LLAMA, TEXT, TRANSFORMER, read_model, renamed,
                        save_gguf)

sys.path.append(os.path.join(HERE, "..", "..", "unit", "data"))
import make_gguf_tokenizer  # noqa: E402

VAE = [(re.compile(a), b) for a, b in [
    (r"^quant_conv", "conv1"), (r"^post_quant_conv", "conv2"),
    (r"\.conv_in\.", ".conv1."), (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."), (r"\.mid_block\.attentions\.0", ".middle.1"),
    (r"\.mid_block\.resnets\.0", ".middle.0"),
    (r"\.mid_block\.resnets\.1", ".middle.2"),
    (r"\.down_blocks\.", ".downsamples."),
    (r"(samples\.\d+|middle\.[02])\.norm1", r"\1.residual.0"),
    (r"(samples\.\d+|middle\.[02])\.conv1", r"\1.residual.2"),
    (r"(samples\.\d+|middle\.[02])\.norm2", r"\1.residual.3"),
    (r"(samples\.\d+|middle\.[02])\.conv2", r"\1.residual.6"),
    (r"\.conv_shortcut", ".shortcut"),
]]


def official_vae(tensors):
    """Blocks of the decoder are numbered through, n + 1 resnets and an
    upsampler each."""
    resnets = 1 + max(int(m[1]) for m in (
        re.match(r"decoder\.up_blocks\.0\.resnets\.(\d+)", k)
        for k in tensors) if m)

    def number(m):
        block, kind, n = int(m[1]), m[2], int(m[3])
        return ".upsamples.%d." % (block * (resnets + 1) + (
            n if kind == "resnets" else resnets))
    return renamed({re.sub(r"\.up_blocks\.(\d+)\.(\w+)\.(\d+)\.", number, k): v
                    for k, v in tensors.items()}, VAE)


class Files:
    """What a layout is made of."""

    def __init__(self, model, out):
        parts = read_model(model)
        self.model, self.out = model, out
        self.dit = renamed(parts["transformer"], TRANSFORMER)
        self.huggingface = parts["text_encoder"]
        self.t5 = renamed(self.huggingface, TEXT)
        self.vae = official_vae(parts["vae"])
        self.spiece = os.path.join(model, "tokenizer", "spiece.model")

    def path(self, name):
        path = os.path.join(self.out, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def save(self, name, *sets):
        """sets: (prefix, tensors)"""
        tensors = {p + k: v.contiguous() for p, s in sets for k, v in s.items()}
        path = self.path(name)
        if name.endswith(".safetensors"):
            save_file(tensors, path, {"format": "pt"})
        else:
            torch.save(tensors, path)

    def copy(self, source, name):
        shutil.copyfile(source, self.path(name))

    def recipe(self, folder):
        self.copy(os.path.join(self.model, "recipe.json"),
                  os.path.join(folder, "recipe.json"))

    def embedded(self):
        with open(self.spiece, "rb") as f:
            return {"spiece_model": torch.frombuffer(bytearray(f.read()),
                                                     dtype=torch.uint8)}

    def base(self, folder):
        """A release without its transformer."""
        self.save(folder + "models_t5_umt5-xxl-enc-bf16.pth", ("", self.t5))
        self.save(folder + "Wan2.1_VAE.pth", ("", self.vae))
        self.copy(self.spiece, folder + "google/umt5-xxl/spiece.model")


def release(f):
    f.save("diffusion_pytorch_model.safetensors", ("", f.dit))
    f.base("")
    f.recipe("")
    return "."


def causvid(f):
    f.base("wan_models/Wan2.1-T2V-1.3B/")
    folder = "checkpoints/autoregressive_checkpoint"
    torch.save({"generator": {"model." + k: v for k, v in f.dit.items()},
                "critic": {"model." + k: -v for k, v in f.dit.items()}},
               f.path(folder + "/model.pt"))
    f.recipe(folder)
    return folder


def forcing(f):
    f.base("wan_models/Wan2.1-T2V-1.3B/")
    wrapped = {"model._fsdp_wrapped_module." + k: v for k, v in f.dit.items()}
    torch.save({"generator": {k: -v for k, v in wrapped.items()},
                "generator_ema": wrapped, "step": 600},
               f.path("checkpoints/self_forcing_dmd.pt"))
    f.recipe("checkpoints")
    return "checkpoints/self_forcing_dmd.pt"


def comfyui(f):
    name = "models/diffusion_models/wan2.1_t2v_1.3B.safetensors"
    f.save(name, ("model.diffusion_model.", f.dit))
    f.save("models/text_encoders/umt5_xxl_fp16.safetensors",
           ("", f.huggingface), ("", f.embedded()))
    f.save("models/vae/wan_2.1_vae.safetensors", ("", f.vae))
    f.recipe("models/diffusion_models")
    return name


def combined(f):
    f.save("wan.safetensors", ("model.diffusion_model.", f.dit),
           ("text_encoders.umt5xxl.transformer.", f.huggingface),
           ("text_encoders.umt5xxl.", f.embedded()), ("vae.", f.vae))
    f.recipe("")
    return "wan.safetensors"


def kijai(f):
    f.save("Wan2_1-T2V-1_3B_bf16.safetensors", ("", f.dit))
    f.save("umt5-xxl-enc-bf16.safetensors", ("", f.t5))
    f.save("Wan2_1_VAE_fp32.safetensors", ("", f.vae))
    f.copy(f.spiece, "spiece.model")
    f.recipe("")
    return "."


def gguf(f):
    """The tokenizer's metadata first, then the tensors, in one writer."""
    save_gguf(f.path("unet/wan2.1-t2v-1.3b-F32.gguf"), f.dit, "F32", "wan")
    rows = f.t5["token_embedding.weight"].shape[0]
    save_gguf(f.path("clip/umt5-xxl-encoder-F32.gguf"), renamed(f.t5, LLAMA),
              "F32", "t5encoder",
              lambda w: make_gguf_tokenizer.add(w, f.spiece, rows))
    f.save("vae/wan_2.1_vae.safetensors", ("", f.vae))
    f.recipe("unet")
    return "unet/wan2.1-t2v-1.3b-F32.gguf"


LAYOUTS = (release, causvid, forcing, comfyui, combined, kijai, gguf)


def diffusers(model, out):
    """A copy with Wan's latent statistics, diffusers' defaults."""
    shutil.copytree(model, out)
    path = os.path.join(out, "vae", "config.json")
    with open(path) as f:
        config = json.load(f)
    usual = AutoencoderKLWan(base_dim=2).config
    for key in ("latents_mean", "latents_std"):
        config[key] = list(usual[key])
    os.remove(path)
    with open(path, "w") as f:
        json.dump(config, f)


def inputs(model, path):
    """Of a clip of 3 latent frames of 64x64 pixels."""
    with open(os.path.join(model, "recipe.json")) as f:
        steps = len(json.load(f)["timesteps"])
    torch.manual_seed(1)
    shape = (3, 16, 8, 8)
    tensors = {"token_ids": torch.tensor([5, 9, 30, 12, 1]),
               "noise": torch.randn(shape)}
    for step in range(1, steps):
        tensors[f"renoise.0.{step}"] = torch.randn(shape)
    save_file(tensors, path)


def trace(program, out, layout, model):
    path = os.path.join(out, layout + ".safetensors")
    subprocess.run([program, "trace", "--model",
                    os.path.join(out, layout, model), "--inputs",
                    os.path.join(out, "inputs.safetensors"), "--outputs",
                    path], check=True)
    return load_file(path)


def main():
    model, out = sys.argv[1:3]
    program = sys.argv[3] if len(sys.argv) > 3 else None
    failed = 0
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    if program:
        inputs(model, os.path.join(out, "inputs.safetensors"))
        diffusers(model, os.path.join(out, "diffusers"))
        want = trace(program, out, "diffusers", ".")
    for layout in LAYOUTS:
        name = layout.__name__
        found = layout(Files(model, os.path.join(out, name)))
        print("model=" + os.path.join(out, name, found), end="", flush=True)
        if program:
            got = trace(program, out, name, found)
            same = got.keys() == want.keys() and all(
                torch.equal(got[k], want[k]) for k in want)
            failed += not same
            print(": %d tensors, %s" % (len(got), "the same bits" if same
                                        else "NOT THE SAME"), end="")
        print()
    return failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
