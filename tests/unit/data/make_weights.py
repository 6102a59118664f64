#!/usr/bin/env python3
# Writes tests/unit/data/weights: files of the safetensors library itself, and
# the names that diffusers, transformers and llama.cpp give to Wan's tensors.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# usage: make_weights.py    (torch, safetensors, diffusers, transformers,
#                                gguf)
import os

import gguf
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers)
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "weights")


def pattern(shape, dtype):
    """Element i is (7 i mod 9 - 4) / 4 (integers: 7 i mod 9): the test knows."""
    n = torch.Size(shape).numel()
    x = (torch.arange(n) * 7) % 9
    if dtype == torch.bool:
        return (x > 4).reshape(shape)
    if dtype.is_floating_point:
        x = (x - 4).to(torch.float64) / 4
    return x.to(dtype).reshape(shape)


def write_types():
    tensors = {
        "f64": pattern((3, 5), torch.float64),
        "f32": pattern((2, 3, 4), torch.float32),
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
        "scalar": pattern((), torch.float32),
        "empty": pattern((0, 4), torch.float32),
        "name with \"quotes\", \\ and ünïcode": pattern((2,), torch.float32),
    }
    save_file(tensors, os.path.join(OUT, "types.safetensors"),
              metadata={"format": "pt", "note": "written by safetensors"})


def write_sharded():
    """A text encoder in the shards that transformers writes."""
    config = UMT5Config(vocab_size=24, d_model=16, d_kv=8, num_heads=2,
                        d_ff=24, num_layers=2,
                        relative_attention_num_buckets=8)
    model = UMT5EncoderModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(pattern(p.shape, torch.float32))
    model.save_pretrained(os.path.join(OUT, "sharded"), max_shard_size="8KB")
    return model


def write_names(name, rows):
    with open(os.path.join(OUT, name + ".tsv"), "w") as f:
        for official, other in rows:
            f.write(f"{official}\t{other}\n")


def transformer_names(layers, image):
    names = []
    for stem in ("patch_embedding", "text_embedding.0", "text_embedding.2",
                 "time_embedding.0", "time_embedding.2", "time_projection.1",
                 "head.head"):
        names += [stem + ".weight", stem + ".bias"]
    names.append("head.modulation")
    if image:
        for i in (0, 1, 3, 4):
            names += [f"img_emb.proj.{i}.weight", f"img_emb.proj.{i}.bias"]
    for n in range(layers):
        block = f"blocks.{n}."
        names.append(block + "modulation")
        for attention in ("self_attn.", "cross_attn."):
            for x in "qkvo":
                names += [f"{block}{attention}{x}.weight",
                          f"{block}{attention}{x}.bias"]
            names += [f"{block}{attention}norm_q.weight",
                      f"{block}{attention}norm_k.weight"]
        if image:
            for x in ("k_img", "v_img"):
                names += [f"{block}cross_attn.{x}.weight",
                          f"{block}cross_attn.{x}.bias"]
            names.append(f"{block}cross_attn.norm_k_img.weight")
        for x in ("norm3", "ffn.0", "ffn.2"):
            names += [f"{block}{x}.weight", f"{block}{x}.bias"]
    return names


def vae_names():
    def conv(stem):
        return [stem + ".weight", stem + ".bias"]

    def residual(stem, shortcut):
        return ([stem + ".residual.0.gamma"] + conv(stem + ".residual.2") +
                [stem + ".residual.3.gamma"] + conv(stem + ".residual.6") +
                (conv(stem + ".shortcut") if shortcut else []))

    names = conv("conv1") + conv("conv2")
    for coder in ("encoder", "decoder"):
        names += conv(coder + ".conv1")
        names += residual(coder + ".middle.0", False)
        names += [coder + ".middle.1.norm.gamma"]
        names += conv(coder + ".middle.1.to_qkv")
        names += conv(coder + ".middle.1.proj")
        names += residual(coder + ".middle.2", False)
        names += [coder + ".head.0.gamma"] + conv(coder + ".head.2")
    for i in range(11):
        stem = f"encoder.downsamples.{i}"
        if i in (2, 5, 8):
            names += conv(stem + ".resample.1")
            names += conv(stem + ".time_conv") if i > 2 else []
        else:
            names += residual(stem, i in (3, 6))
    for i in range(15):
        stem = f"decoder.upsamples.{i}"
        if i in (3, 7, 11):
            names += conv(stem + ".resample.1")
            names += conv(stem + ".time_conv") if i < 11 else []
        else:
            names += residual(stem, i == 4)
    return names


def convert(names, function):
    """Pairs of names, through a converter that renames the keys of a dict."""
    tensors = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    converted = function(dict(tensors))
    pairs = []
    for other, tensor in converted.items():
        pairs.append((names[int(tensor.item())], other))
    assert len(pairs) == len(names)
    return pairs


def same_keys(pairs, model, absent=()):
    ours = {other for _, other in pairs}
    theirs = {k for k in model.state_dict() if k not in absent}
    assert ours == theirs, ours ^ theirs


def text_encoder_names(layers):
    rows = [("token_embedding.weight", "shared.weight"),
            ("norm.weight", "encoder.final_layer_norm.weight")]
    for n in range(layers):
        a, b = f"blocks.{n}.", f"encoder.block.{n}.layer."
        rows += [(f"{a}attn.{x}.weight", f"{b}0.SelfAttention.{x}.weight")
                 for x in "qkvo"]
        rows += [
            (a + "norm1.weight", b + "0.layer_norm.weight"),
            (a + "norm2.weight", b + "1.layer_norm.weight"),
            (a + "pos_embedding.embedding.weight",
             b + "0.SelfAttention.relative_attention_bias.weight"),
            (a + "ffn.gate.0.weight", b + "1.DenseReluDense.wi_0.weight"),
            (a + "ffn.fc1.weight", b + "1.DenseReluDense.wi_1.weight"),
            (a + "ffn.fc2.weight", b + "1.DenseReluDense.wo.weight"),
        ]
    return rows


def main():
    os.makedirs(OUT, exist_ok=True)
    torch.manual_seed(1)
    write_types()
    t5 = write_sharded()
    small = dict(num_attention_heads=1, attention_head_dim=12, ffn_dim=8,
                 text_dim=8, freq_dim=8, in_channels=4, out_channels=4)
    pairs = convert(transformer_names(11, False),
                    convert_wan_transformer_to_diffusers)
    same_keys(pairs, WanTransformer3DModel(num_layers=11, **small))
    write_names("transformer", pairs)
    pairs = convert(transformer_names(2, True),
                    convert_wan_transformer_to_diffusers)
    # which that converter does not know
    pairs.append(("img_emb.emb_pos",
                  "condition_embedder.image_embedder.pos_embed"))
    image = WanTransformer3DModel(num_layers=2, image_dim=8,
                                  added_kv_proj_dim=12, pos_embed_seq_len=4,
                                  **small)
    same_keys(pairs, image, [k for k in image.state_dict()
                             if "norm_added_q" in k])
    write_names("image", pairs)
    pairs = convert(vae_names(), convert_wan_vae_to_diffusers)
    same_keys(pairs, AutoencoderKLWan(base_dim=4, z_dim=4))
    write_names("vae", pairs)
    pairs = text_encoder_names(2)
    same_keys(pairs, t5, ["encoder.embed_tokens.weight"])
    write_names("text_encoder", pairs)
    llama = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    write_names("text_encoder_llama",
                [(official, llama.get_name(other, try_suffixes=(".weight",)))
                 for official, other in pairs])


main()
