#!/usr/bin/env python3
# Writes tests/fuzz/corpus: small sound files of every kind,
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


def networks():
    """The smallest network of each kind that opens, in bytes of fp8."""
    def put(letter, name, shapes, **how):
        save("networks", name, letter.encode() + container(
            [(n, "F8_E4M3", list(shape)) for n, shape in shapes], **how))

    def linear(name, out, in_):
        return [(name + ".weight", [out, in_]), (name + ".bias", [out])]

    dim, ffn, text, freq, channels = 8, 2, 2, 2, 1
    dit = [("patch_embedding.weight", [dim, channels, 1, 2, 2]),
           ("patch_embedding.bias", [dim]), ("head.modulation", [1, 2, dim]),
           ("blocks.0.modulation", [1, 6, dim]), ("blocks.0.norm3.weight",
                                                  [dim]),
           ("blocks.0.norm3.bias", [dim])]
    for name, out, in_ in (
            ("text_embedding.0", dim, text), ("text_embedding.2", dim, dim),
            ("time_embedding.0", dim, freq), ("time_embedding.2", dim, dim),
            ("time_projection.1", 6 * dim, dim),
            ("head.head", 4 * channels, dim), ("blocks.0.ffn.0", ffn, dim),
            ("blocks.0.ffn.2", dim, ffn)):
        dit += linear(name, out, in_)
    for attention in ("self_attn", "cross_attn"):
        for x in "qkvo":
            dit += linear(f"blocks.0.{attention}.{x}", dim, dim)
        dit += [(f"blocks.0.{attention}.norm_{x}.weight", [dim]) for x in "qk"]
    put("t", "transformer", dit)
    put("t", "transformer-missing", dit[:-1])
    put("t", "transformer-more", dit + [("blocks.1.modulation", [1, 6, dim])])
    put("t", "transformer-image",
        dit + [("blocks.0.cross_attn.k_img.weight", [dim, dim])])

    t5 = [("token_embedding.weight", [3, 4]), ("norm.weight", [4]),
          ("blocks.0.norm1.weight", [4]), ("blocks.0.norm2.weight", [4]),
          ("blocks.0.pos_embedding.embedding.weight", [4, 1]),
          ("blocks.0.ffn.gate.0.weight", [2, 4]),
          ("blocks.0.ffn.fc1.weight", [2, 4]),
          ("blocks.0.ffn.fc2.weight", [4, 2])]
    t5 += [(f"blocks.0.attn.{x}.weight", [4, 4]) for x in "qkvo"]
    put("e", "text-encoder", t5)
    put("e", "text-encoder-shape", t5[:-1] + [("blocks.0.attn.o.weight",
                                               [5, 4])])

    def conv(name, out, in_, *kernel):
        return [(name + ".weight", [out, in_, *kernel]), (name + ".bias",
                                                          [out])]

    def residual(name, in_, out):
        return ([(name + ".residual.0.gamma", [in_, 1, 1, 1]),
                 (name + ".residual.3.gamma", [out, 1, 1, 1])] +
                conv(name + ".residual.2", out, in_, 3, 3, 3) +
                conv(name + ".residual.6", out, out, 3, 3, 3) +
                (conv(name + ".shortcut", out, in_, 1, 1, 1)
                 if in_ != out else []))

    def middle(name, c):
        return (residual(name + ".middle.0", c, c) +
                [(name + ".middle.1.norm.gamma", [c, 1, 1])] +
                conv(name + ".middle.1.to_qkv", 3 * c, c, 1, 1) +
                conv(name + ".middle.1.proj", c, c, 1, 1) +
                residual(name + ".middle.2", c, c))

    vae = conv("conv2", 1, 1, 1, 1, 1)
    vae += conv("decoder.conv1", 2, 1, 3, 3, 3) + middle("decoder", 2)
    vae += conv("decoder.upsamples.0.resample.1", 1, 2, 3, 3)
    vae += conv("decoder.upsamples.0.time_conv", 4, 2, 3, 1, 1)
    vae += residual("decoder.upsamples.1", 1, 1)
    vae += [("decoder.head.0.gamma", [1, 1, 1, 1])]
    vae += conv("decoder.head.2", 3, 1, 3, 3, 3)
    put("v", "vae-decoder", vae)
    put("v", "vae-missing", vae[:-1])
    vae += conv("conv1", 2, 2, 1, 1, 1)
    vae += conv("encoder.conv1", 1, 3, 3, 3, 3) + middle("encoder", 2)
    vae += residual("encoder.downsamples.0", 1, 2)
    vae += conv("encoder.downsamples.1.resample.1", 2, 2, 3, 3)
    vae += conv("encoder.downsamples.1.time_conv", 2, 2, 3, 1, 1)
    vae += [("encoder.head.0.gamma", [2, 1, 1, 1])]
    vae += conv("encoder.head.2", 2, 2, 3, 3, 3)
    put("v", "vae", vae)


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



def tokenizers():
    """Vocabularies (protobuf messages) behind a prompt and its length."""
    def varint(n):
        out = b""
        while n > 0x7f:
            out, n = out + bytes([n & 0x7f | 0x80]), n >> 7
        return out + bytes([n])

    def field(number, data):
        return varint(number << 3 | 2) + varint(len(data)) + data

    def piece(text, score=0.0, kind=None):
        return field(1, field(1, text.encode()) + b"\x15" +
                     struct.pack("<f", score) +
                     (b"" if kind is None else b"\x18" + varint(kind)))

    def put(name, prompt, *parts):
        prompt = prompt.encode()
        save("spiece", name, bytes([len(prompt)]) + prompt + b"".join(parts))

    normal, unknown, control, user, byte = 1, 2, 3, 4, 6
    base = [piece("<pad>", 0, control), piece("</s>", 0, control),
            piece("<unk>", 0, unknown)]
    words = [piece(w, -i / 4) for i, w in enumerate(
        ["\u2581a", "\u2581", "a", "cat", "c", "t", "!", "!!", "\u732b"])]
    put("plain", "a cat!!! \u732b \u00fc", *base, *words)
    put("sentinels", "a <extra_id_0> <extra_id_299></s> <unk>x<pad>", *base,
        *words)
    put("types", "a cat", *base, *words, piece("<0x41>", 0, byte),
        piece("<user>", 0, user), piece("<used>", -1, normal))
    put("settings", "&lt;cat&gt; \ufb01", *base, *words,
        field(2, b"\x18\x01"), field(3, field(1, b"nmt_nfkc") + b"\x18\x01"),
        field(4, b""), field(5, b""))
    put("bpe", "a", *base, field(2, b"\x18\x02"))
    put("empty", "")
    put("no-unknown", "a", *base[:2])
    put("two-unknowns", "a", *base, piece("?", 0, unknown))
    put("no-end", "a", base[2])
    put("twice", "a", *base, piece("a"), piece("a"))
    put("score", "a", *base, piece("a", float("nan")))
    put("cut", "a", *base, words[0][:-3])


weights()
networks()
texts()
tokenizers()
