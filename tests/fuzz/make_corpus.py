#!/usr/bin/env python3
# Writes tests/fuzz/corpus/{safetensors,json}: small sound files of every kind,
# and a few damaged ones, from which the fuzzer starts.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# usage: make_corpus.py    (no packages needed)
import json
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
NAMES = os.path.join(OUT, "..", "..", "unit", "data", "weights")
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2,
         "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}


def save(kind, name, data):
    os.makedirs(os.path.join(OUT, kind), exist_ok=True)
    with open(os.path.join(OUT, kind, name), "wb") as f:
        f.write(data)


def container(tensors, metadata=None, pad=0):
    """tensors: (name, dtype, shape)."""
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape in tensors:
        n = SIZES[dtype]
        for d in shape:
            n *= d
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + bytes(at)


def names(file, column, wanted):
    with open(os.path.join(NAMES, file + ".tsv")) as f:
        rows = [line.rstrip("\n").split("\t")[column] for line in f]
    return [r for r in rows if any(w in r for w in wanted)]


def weights():
    save("safetensors", "types", container(
        [(d.lower(), d, [2, 3]) for d in SIZES], {"format": "pt"}))
    save("safetensors", "shapes", container(
        [("scalar", "F32", []), ("empty", "F32", [0, 3]),
         ("eight", "U8", [1, 2, 1, 1, 1, 1, 1, 2])], pad=3))
    save("safetensors", "none", container([]))
    # one of each kind that is recognised; sizes of 2 keep the files short
    parts = {
        "transformer": ("blocks.0.", "patch", "time_proj", "head", "proj_out"),
        "vae": ("_blocks.0.", "upsamples.0", "mid_block.attentions", "conv1",
                "quant_conv", "middle.1", "norm_out", "head.0"),
        "text_encoder": ("block.0.", "blocks.0.", "shared", "norm"),
    }
    prefixes = ["", "model.", "generator.model._fsdp_wrapped_module."]
    for i, (kind, wanted) in enumerate(parts.items()):
        for column in (0, 1):
            chosen = names(kind, column, wanted)[:14]
            chosen += {("transformer", 0): ["patch_embedding.weight"],
                       ("transformer", 1): ["scale_shift_table"]}.get(
                           (kind, column), [])
            chosen = list(dict.fromkeys(chosen))
            tensors = []
            for k, name in enumerate(chosen):
                shape = [[2], [2, 1, 1], [1, 2, 2, 1], [2, 2, 1, 1, 2]][k % 4]
                dtype = ["BF16", "F32", "F16", "F8_E4M3", "F64"][k % 5]
                tensors.append((prefixes[(i + column) % 3] + name, dtype,
                                shape))
            for pad in range(6):
                # the length of the file chooses the kind that is asked for
                data = container(tensors, pad=pad)
                if len(data) % 3 == i:
                    save("safetensors", f"{kind}-{column}-{pad}", data)
    combined = [("model.diffusion_model.patch_embedding.weight", "F16", [2]),
                ("text_encoders.umt5xxl.transformer.shared.weight", "F16",
                 [2]), ("vae.decoder.head.0.gamma", "F16", [2]),
                ("vae.decoder.conv1.weight", "F16", [1, 2, 1, 2, 1])]
    for pad in range(3):
        save("safetensors", f"combined-{pad}", container(combined, pad=pad))
    save("safetensors", "lora", container(
        [("diffusion_model.blocks.0.ffn.0.lora_down.weight", "F16", [1]),
         ("diffusion_model.blocks.0.ffn.0.lora_up.weight", "F16", [1])]))
    save("safetensors", "scaled", container(
        [("patch_embedding.weight", "F8_E4M3", [2]), ("scaled_fp8", "U8", [0]),
         ("blocks.0.ffn.0.scale_weight", "F32", [])]))
    sound = container([("a", "F32", [2]), ("b", "F32", [3])])
    save("safetensors", "cut", sound[:-1])
    save("safetensors", "long", sound + b"\0")
    save("safetensors", "overlap", sound.replace(b"[8,20]", b"[4,16]"))
    save("safetensors", "twice", sound.replace(b'"b"', b'"a"'))
    save("safetensors", "header-too-long",
         struct.pack("<Q", 1 << 40) + sound[8:])
    save("safetensors", "zip", b"PK\3\4" + bytes(30))
    save("safetensors", "gguf", b"GGUF\3\0\0\0" + bytes(16))


RECIPE = {
    "name": "shapes", "variant": "causal", "width": 160, "height": 96,
    "rate": 16, "frames": 81, "frames_per_block": 3, "window": 12,
    "sampler": "causvid", "timesteps": [1000, 757.5, 522], "warp": False,
    "shift": 8.0, "guidance": 1.0, "negative_prompt": "dark",
}
TRANSFORMER = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.42.1",
    "added_kv_proj_dim": None, "attention_head_dim": 128,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 512, "freq_dim": 256,
    "image_dim": None, "in_channels": 16, "num_attention_heads": 2,
    "num_layers": 2, "out_channels": 16, "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None, "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 32,
}
OFFICIAL = {
    "_class_name": "WanModel", "dim": 256, "eps": 1e-06, "ffn_dim": 512,
    "freq_dim": 256, "in_dim": 16, "model_type": "t2v", "num_heads": 2,
    "num_layers": 2, "out_dim": 16, "text_len": 512,
}
VAE = {
    "_class_name": "AutoencoderKLWan", "attn_scales": [], "base_dim": 16,
    "clip_output": True, "decoder_base_dim": None, "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0, "in_channels": 3, "is_residual": False,
    "latents_mean": [-0.5, 0.25], "latents_std": [1.5, 2], "num_res_blocks": 1,
    "out_channels": 3, "patch_size": None, "scale_factor_spatial": 8,
    "scale_factor_temporal": 4, "temperal_downsample": [False, True, True],
    "z_dim": 2,
}
INDEX = {"metadata": {"total_size": 5},
         "weight_map": {"a": "1.st", "b": "1.st", "c": "2.st"}}


def texts():
    def put(letter, name, value, **how):
        text = value if isinstance(value, str) else json.dumps(value, **how)
        save("json", name, letter.encode() + text.encode())

    put("r", "recipe", RECIPE)
    put("r", "recipe-steps", {"variant": "bidirectional", "sampler": "unipc",
                              "steps": 50, "shift": 5, "width": 832,
                              "height": 480})
    put("r", "recipe-wrong", dict(RECIPE, width=161))
    put("r", "recipe-unknown-key", dict(RECIPE, colour="red"))
    put("t", "transformer", TRANSFORMER, indent=2)
    put("t", "transformer-official", OFFICIAL)
    put("t", "transformer-wrong", dict(TRANSFORMER, num_layers=3))
    put("v", "vae", VAE)
    put("v", "vae-2.2", dict(VAE, is_residual=True, patch_size=2))
    put("i", "index", INDEX)
    put("i", "index-missing", {"weight_map": {"a": "3.st"}})
    put("i", "index-outside", {"weight_map": {"a": "../1.st"}})
    put("j", "values", {"a": [1, -2.5e-3, 0, 1e30], "b": {"c": "\u00e9\U0001f600",
        "d": None}, "e": True, "f": False, "g": "\"\\/\b\f\n\r\t"})
    put("j", "escapes", '{"\\u0041\\ud83d\\ude00":"\\u00e9\\/"}')
    put("j", "utf8", json.dumps({"k\u00e9\u20ac\U0001f600": "\u00e9"},
                                ensure_ascii=False))
    put("j", "twice", '{"a":1,"b":{"c":1,"c":2}}')
    put("j", "deep", "[" * 31 + "]" * 31)
    put("j", "too-deep", "[" * 33 + "]" * 33)
    put("j", "numbers", "[9007199254740991,9007199254740993,1e999,-0,0.1,"
        "1234567890123456789012345678901234567890]")
    put("j", "blanks", " \t\r\n{ \"a\" : [ 1 , 2 ] } \n")


weights()
texts()
