#!/usr/bin/env python3
"""Write one model in every container, by the libraries that users have.

SPDX-License-Identifier: BSD-2-Clause

Usage: containers.py              a small model -> ../fixtures/containers
       containers.py MODEL OUT    of a diffusers folder: OUT/<layout>/...

Each layout is a folder with transformer/, text_encoder/ and vae/, whose weights
are what torch.save() or the gguf package writes:
  torch-generator   CausVid's checkpoint: {"generator": {"model.<official>"},
                    "critic": ...}, and files of the Wan release
  torch-ema         Self-Forcing's: "generator_ema", FSDP's names; no tensor is
                    contiguous, or several share a storage
  gguf-f32 ...      official names, llama.cpp's for the text encoder;
                    quantised matrices, other tensors in float32
The fixtures are some of these files, beside the model as safetensors.
"""
import json
import os
import re
import shutil
import sys

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from gguf.quants import quantize
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from dit import make_alive

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ("transformer", "text_encoder", "vae")

# ------------------------------------------------------------------- names

TRANSFORMER = [(re.compile(a), b) for a, b in [
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"), (r"^proj_out", "head.head"),
    (r"\.scale_shift_table", ".modulation"), (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."), (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0", ".o"), (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"), (r"\.norm2\.", ".norm3."),
]]
TEXT = [(re.compile(a), b) for a, b in [
    (r"^shared", "token_embedding"), (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block\.", "blocks."),
    (r"\.layer\.0\.layer_norm", ".norm1"),
    (r"\.layer\.1\.layer_norm", ".norm2"),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias",
     ".pos_embedding.embedding"),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.1\.DenseReluDense\.wi_0", ".ffn.gate.0"),
    (r"\.layer\.1\.DenseReluDense\.wi_1", ".ffn.fc1"),
    (r"\.layer\.1\.DenseReluDense\.wo", ".ffn.fc2"),
]]
LLAMA = [(re.compile(a), b) for a, b in [
    (r"^token_embedding", "token_embd"), (r"^norm\.", "enc.output_norm."),
    (r"^blocks\.", "enc.blk."), (r"\.norm1\.", ".attn_norm."),
    (r"\.norm2\.", ".ffn_norm."), (r"\.attn\.([qkvo])\.", r".attn_\1."),
    (r"\.pos_embedding\.embedding", ".attn_rel_b"),
    (r"\.ffn\.gate\.0", ".ffn_gate"), (r"\.ffn\.fc1", ".ffn_up"),
    (r"\.ffn\.fc2", ".ffn_down"),
]]


def renamed(tensors, rules):
    def name(key):
        for pattern, to in rules:
            key = pattern.sub(to, key)
        return key
    return {name(k): v for k, v in tensors.items()}


def read_model(folder):
    """{part: {diffusers' name: float32 tensor}}, without tied copies."""
    model = {}
    for part in PARTS:
        files = [f for f in sorted(os.listdir(os.path.join(folder, part)))
                 if f.endswith(".safetensors")]
        model[part] = {}
        for f in files:
            model[part].update(load_file(os.path.join(folder, part, f)))
        model[part].pop("encoder.embed_tokens.weight", None)
    return model


# --------------------------------------------------------------- containers


def scattered(tensors):
    """The same tensors, none of them contiguous: last dimension first."""
    out = {}
    for name, t in tensors.items():
        if t.ndim > 1:
            out[name] = t.movedim(-1, 0).contiguous().movedim(0, -1)
        else:
            wide = torch.zeros(t.numel(), 2)
            wide[:, 1] = t
            out[name] = wide[:, 1]
    return out


def in_one_storage(tensors):
    flat = torch.cat([t.flatten() for t in tensors.values()])
    out, at = {}, 0
    for name, t in tensors.items():
        out[name] = flat[at:at + t.numel()].view(t.shape)
        at += t.numel()
    return out


def save_gguf(path, tensors, kind, architecture, add_metadata=None):
    """Matrices quantised in rows of whole blocks, whatever their own rows are,
    as converters of image models do it; the rest in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    if add_metadata:
        add_metadata(writer)
    kind = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, t in tensors.items():
        x = t.float().contiguous().numpy()
        if x.ndim != 2 or x.size % block or name.endswith("rel_b.weight"):
            writer.add_tensor(name, x)
            continue
        if x.shape[-1] % block:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(x.shape))
            x = x.reshape(-1, block)
        writer.add_tensor(name, quantize_k(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize_k(x, kind):
    """gguf's own quantisation; where it has none (the K types), blocks of an
    arithmetic of ours that fits scales by the largest value."""
    try:
        return quantize(x, kind)
    except NotImplementedError:
        return {"Q4_K": blocks_q4_k, "Q6_K": blocks_q6_k}[kind.name](x)


def blocks_q4_k(x):
    """d, m (half), 12 bytes of 6-bit scales and offsets, 128 of levels."""
    x = x.reshape(-1, 8, 32)
    low = np.minimum(x.min(2), 0)
    step = (x.max(2) - low) / 15
    d = (step.max(1) / 63).astype(np.float16)
    m = (-low.min(1) / 63).astype(np.float16)
    d32, m32 = d.astype(np.float32), m.astype(np.float32)

    def safe(v):
        return np.where(v > 0, v, 1)

    sc = np.round(step / safe(d32)[:, None]).clip(0, 63).astype(np.uint8)
    mn = np.round(-low / safe(m32)[:, None]).clip(0, 63).astype(np.uint8)
    scale = sc * d32[:, None]
    q = (x + (mn * m32[:, None])[:, :, None]) / safe(scale)[:, :, None]
    q = np.round(q).clip(0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    six = np.concatenate([sc[:, :4] | sc[:, 4:] >> 4 << 6,
                          mn[:, :4] | mn[:, 4:] >> 4 << 6,
                          sc[:, 4:] & 15 | (mn[:, 4:] & 15) << 4], 1)
    return np.concatenate([d.view(np.uint8).reshape(-1, 2),
                           m.view(np.uint8).reshape(-1, 2), six,
                           (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)], 1)


def blocks_q6_k(x):
    """128 bytes of low bits, 64 of high ones, 16 scales, d (half)."""
    x = x.reshape(-1, 16, 16)
    step = abs(x).max(2) / 31
    d = (step.max(1) / 127).astype(np.float16)
    d32 = np.where(d > 0, d, 1).astype(np.float32)
    sc = np.round(step / d32[:, None]).clip(1, 127).astype(np.int8)
    q = np.round(x / (sc * d32[:, None])[:, :, None]).clip(-32, 31) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4,
                         low[:, :, 1] | low[:, :, 3] << 4], 2)
    qh = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 |
          high[:, :, 3] << 6)
    return np.concatenate([ql.reshape(-1, 128), qh.reshape(-1, 64),
                           sc.view(np.uint8), d.view(np.uint8).reshape(-1, 2)],
                          1)


# ------------------------------------------------------------------ layouts


def torch_generator(model, put):
    official = renamed(model["transformer"], TRANSFORMER)
    torch.save({"generator": {"model." + k: v for k, v in official.items()},
                "critic": {"model.x": torch.zeros(3)},
                "step": 1000}, put("transformer", "model.pt"))
    torch.save(renamed(model["text_encoder"], TEXT),
               put("text_encoder", "models_t5.pth"))
    torch.save(in_one_storage(model["vae"]), put("vae", "vae.pth"))


def torch_ema(model, put):
    official = renamed(model["transformer"], TRANSFORMER)
    wrapped = {"model._fsdp_wrapped_module." + k: v
               for k, v in scattered(official).items()}
    worse = {k: -v.clone() for k, v in wrapped.items() if "head" in k}
    torch.save({"generator": worse, "generator_ema": wrapped},
               put("transformer", "model.pt"))
    torch.save({k: torch.nn.Parameter(v) for k, v in
                in_one_storage(model["text_encoder"]).items()},
               put("text_encoder", "pytorch_model.bin"))
    torch.save(scattered(model["vae"]), put("vae", "vae.pth"))


def in_gguf(kind):
    def write(model, put):
        plain = kind in ("F32", "F16", "BF16")
        save_gguf(put("transformer", "model.gguf"),
                  renamed(model["transformer"], TRANSFORMER), kind, "wan")
        save_gguf(put("text_encoder", "umt5.gguf"),
                  renamed(renamed(model["text_encoder"], TEXT), LLAMA), kind,
                  "t5encoder")
        save_gguf(put("vae", "vae.gguf"), model["vae"],
                  kind if plain else "F16", "wan")
    return write


LAYOUTS = {"torch-generator": torch_generator, "torch-ema": torch_ema}
for KIND in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0",
             "Q6_K", "Q4_K"):
    LAYOUTS["gguf-" + KIND.lower()] = in_gguf(KIND)


def write_layout(folder, out, name):
    """A copy of the diffusers folder with other weights."""
    where = os.path.join(out, name)
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(folder, where,
                    ignore=shutil.ignore_patterns("*.safetensors*"))
    LAYOUTS[name](read_model(folder),
                  lambda part, f: os.path.join(where, part, f))


# ----------------------------------------------------------------- fixtures


def small_model(out):
    """A transformer, text encoder and VAE with as few numbers as there can be,
    and inputs of `causvid trace`."""
    torch.manual_seed(8)
    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=41, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0)).eval()
    make_alive(encoder)
    encoder.shared.weight.data.normal_()
    vae = AutoencoderKLWan(base_dim=2, z_dim=4, dim_mult=[1, 1, 1, 1],
                           num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4).eval()
    make_alive(vae, gain=1.3)
    vae.decoder.conv_out.weight.data *= 0.4
    transformer = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
        num_layers=1).eval()
    make_alive(transformer)
    for part, model in zip(PARTS, (transformer, encoder, vae)):
        model.save_pretrained(os.path.join(out, part))
    inputs = {"token_ids": torch.tensor([7, 3, 21, 30, 12, 1]),
              "noise": torch.randn(3, 4, 4, 6)}
    for step in range(1, 3):
        inputs[f"renoise.0.{step}"] = torch.randn(3, 4, 4, 6)
    save_file(inputs, os.path.join(out, "..", "inputs.safetensors"))
    with open(os.path.join(out, "recipe.json"), "w") as f:
        json.dump({"variant": "causal", "width": 48, "height": 32, "rate": 16,
                   "frames": 9, "frames_per_block": 3, "window": 3,
                   "sampler": "causvid", "timesteps": [1000, 757, 522],
                   "shift": 8.0, "guidance": 1.0}, f, indent=2)
        f.write("\n")


def fixtures(out):
    shutil.rmtree(out, ignore_errors=True)
    model = os.path.join(out, "safetensors")
    small_model(model)
    for name in ("torch-generator", "torch-ema", "gguf-f32", "gguf-q8_0",
                 "gguf-q4_k"):
        write_layout(model, out, name)
        for part in PARTS: # the test takes what is not there from the first
            os.remove(os.path.join(out, name, part, "config.json"))
        if name not in ("gguf-f32", "torch-generator", "torch-ema"):
            shutil.rmtree(os.path.join(out, name, "vae"))
        os.remove(os.path.join(out, name, "recipe.json"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        for layout in LAYOUTS:
            write_layout(sys.argv[1], sys.argv[2], layout)
    else:
        fixtures(os.path.join(HERE, "..", "fixtures", "containers"))
