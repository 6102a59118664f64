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


def container(tensors, metadata=None, pad=0, contents={}):
    """tensors: (name, dtype, shape); contents: {name: bytes}, else zeros."""
    header, at, data = {}, 0, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape in tensors:
        n = SIZES[dtype]
        for d in shape:
            n *= d
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [at, at + n]}
        at += n
        data += contents.get(name, bytes(n))
    text = json.dumps(header, separators=(",", ":")).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


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
    save("safetensors", "empty-large", container(
        [("w", "F32", [0, 1 << 40, 1 << 32])]))
    save("safetensors", "none", container([]))
    save("safetensors", "titled", container([("a", "F32", [2])], {
        "modelspec.title": "CausVid \u0001", "modelspec.architecture": "wan",
        "_quantization_metadata": "{}"}))
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
    def put(letter, name, shapes, scales=[], **how):
        save("networks", name, letter.encode() + container(
            [(n, "F8_E4M3", list(shape)) for n, shape in shapes] + scales,
            **how))

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

    quant = b'{"format":"float8_e4m3fn"}'
    put("t", "transformer-fp8", dit, [
        ("scaled_fp8", "F8_E4M3", [2]),
        ("blocks.0.ffn.0.scale_weight", "F32", []),
        ("blocks.0.ffn.0.scale_input", "F32", []),
        ("blocks.0.ffn.2.weight_scale", "BF16", [dim, 1]),
        ("blocks.0.ffn.2.comfy_quant", "U8", [len(quant)])],
        contents={"blocks.0.ffn.2.comfy_quant": quant})

    t5 = [("token_embedding.weight", [3, 4]), ("norm.weight", [4]),
          ("blocks.0.norm1.weight", [4]), ("blocks.0.norm2.weight", [4]),
          ("blocks.0.pos_embedding.embedding.weight", [4, 1]),
          ("blocks.0.ffn.gate.0.weight", [2, 4]),
          ("blocks.0.ffn.fc1.weight", [2, 4]),
          ("blocks.0.ffn.fc2.weight", [4, 2])]
    t5 += [(f"blocks.0.attn.{x}.weight", [4, 4]) for x in "qkvo"]
    put("e", "text-encoder", t5)
    put("e", "text-encoder-fp8", t5, [
        ("blocks.0.attn.q.weight_scale", "F32", [4])],
        metadata={"_quantization_metadata": json.dumps({"layers": {
            "blocks.0.attn.q": {"format": "float8_e4m3fn"}}})})
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

    tiny = conv("decoder.1", 1, 1, 3, 3) + conv("decoder.22", 3, 1, 3, 3)
    for at, frames in (3, 1), (9, 2), (15, 2):
        for i in range(at, at + 3):
            for j, in_ in enumerate((2, 1, 1)):
                tiny += conv(f"decoder.{i}.conv.{2 * j}", 1, in_, 3, 3)
        tiny += [(f"decoder.{at + 4}.conv.weight", [frames, 1, 1, 1]),
                 (f"decoder.{at + 5}.weight", [1, 1, 3, 3])]
    put("v", "vae-tiny", tiny)


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


# ---- files of torch.save(): tests/unit/test_torch.c knows what is said


def zip_file(members, **tricks):
    """members: (name, bytes) or (name, bytes, tricks). Sizes only in the
    directory and an end record of zip64, as torch.save() writes them."""
    out, directory, n = b"", b"", 0
    end64 = tricks.get("zip64", True)
    for name, data, *rest in members:
        t = {**tricks, **(rest[0] if rest else {})}
        name = name.encode()
        method, flags = t.get("method", 0), 0x808 | t.get("flags", 0)
        at = t.get("at", len(out))
        local = t.get("local_name", name)
        out += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, flags,
                           t.get("local_method", method), 0, 0, 0, 0, 0,
                           len(local), 4) + local + b"FB\0\0" + data
        size = t.get("size", len(data))
        extra, low = t.get("extra", b""), (size, size, at)
        if t.get("wide"):
            low = (0xffffffff,) * 3
            extra += struct.pack("<HHQQQ", 1, 24, size, size, at)
        if t.get("packed") is not None:
            low = (t["packed"], *low[1:])
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0, 0, flags, method, 0, 0, 0,
            *low[:2], len(name), len(extra), 0, t.get("disk", 0), 0, 0,
            low[2]) + name + extra
        n += 1
    n, at = tricks.get("count", n), len(out)
    size = len(directory) + tricks.get("directory", 0)
    out += directory
    if end64:
        out += struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, n, n,
                           size, at)
        out += struct.pack("<4sIQI", b"PK\6\7", 0, tricks.get(
            "end64_at", len(out) - 56), 1)
    n32 = tricks.get("count32", n)
    return out + struct.pack("<4sHHHHIIH", b"PK\5\6", tricks.get("disks", 0),
                             0, n32, n32, size, at, 0)


def text(s):
    s = s.encode()
    return b"X" + struct.pack("<I", len(s)) + s


def number(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    if -2 ** 31 <= n < 2 ** 31:
        return b"J" + struct.pack("<i", n)
    data = n.to_bytes(8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return b"(" + b"".join(number(v) for v in values) + b"t"


def called(module, name, arguments=b")"):
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


def storage(n, kind="FloatStorage", key="0", first="storage", module="torch"):
    return (b"(" + text(first) + f"c{module}\n{kind}\n".encode() + text(key) +
            text("cpu") + number(n) + b"tQ")


def tensor(size=(2, 2), stride=(2, 1), offset=0, where=None):
    return called("torch._utils", "_rebuild_tensor_v2",
                  b"(" + (where or storage(4)) + number(offset) +
                  numbers(size) + numbers(stride) + b"\x89" +
                  called("collections", "OrderedDict") + b"t")


def pickled(body):
    return b"\x80\2" + body + b"."


def dictionary(*pairs):
    return b"}(" + b"".join(text(k) + v for k, v in pairs) + b"u"


def torch_files():
    root = "archive/"
    sound = pickled(dictionary(("w", tensor())))
    data = ("archive/data/0", bytes(16))

    def members(pkl=sound):
        return [(root + "data.pkl", pkl), (root + "byteorder", b"little"),
                data]

    def archive(name, files=None, **tricks):
        save("torch", name, zip_file(files or members(), **tricks))

    def program(name, body, whole=False):
        save("torch", name, zip_file(members(
            body if whole else pickled(body))))

    archive("sound")
    archive("sound-old", zip64=False)
    archive("sound-wide", wide=True)
    archive("compressed", [(root + "data.pkl", sound, {"method": 8}), data])
    archive("compressed-here", [(root + "data.pkl", sound,
                                 {"local_method": 8}), data])
    archive("encrypted", [(root + "data.pkl", sound, {"flags": 1}), data])
    archive("twice", members() + [data])
    archive("two-roots", members() + [("other/x", b"")])
    archive("overlap", members() + [(root + "x", b"abc", {"at": 3})])
    archive("outside", members() + [(root + "x", b"", {"at": 1 << 30})])
    archive("too-long", members() + [(root + "x", b"", {"size": 1 << 20})])
    archive("two-sizes", members() + [(root + "x", b"", {"packed": 1})])
    archive("dots", members() + [(root + "../x", b"")])
    archive("absolute", members() + [("/archive/x", b"")])
    archive("backslash", members() + [(root + "..\\x", b"")])
    archive("no-pickle", [data])
    archive("script", members() + [(root + "constants.pkl", b"")])
    archive("big-endian", [(root + "data.pkl", sound), data,
                           (root + "byteorder", b"big")])
    archive("other-name", [(root + "data.pkl", sound, {
        "local_name": b"archive/data.abc"}), data])
    archive("several-disks", disks=1)
    archive("disk", members() + [(root + "x", b"", {"disk": 2})])
    archive("more-members", count=9)
    archive("fewer-members", count=2)
    archive("directory", directory=-1)
    archive("two-ends", count32=1)
    archive("end64-elsewhere", end64_at=0)
    archive("no-size64", members() + [(root + "x", b"",
                                       {"size": 0xffffffff})])
    archive("size64-twice", members() + [(root + "x", b"", {
        "wide": True, "extra": struct.pack("<HHQQQ", 1, 24, 0, 0, 0)})])
    save("torch", "cut", zip_file(members())[:-30])
    archive("no-byteorder", [(root + "data.pkl", sound), data])

    # names
    program("os-system", called("os", "system", b"(" + text("true") + b"t"))
    program("eval", called("builtins", "eval", b"(" + text("1") + b"t"))
    program("eval2", called("__builtin__", "eval", b"(" + text("1") + b"t"))
    program("getattr", called("builtins", "getattr"))
    program("numpy", b"cnumpy.core.multiarray\n_reconstruct\n")
    program("argparse", b"cargparse\nNamespace\n)\x81")
    program("control", b"cos\x1b[2J\nsystem\n")
    program("name-start", b"ctorch._utils\n_rebuild\n")
    # instructions
    for name, op in {"stack-global": b"\x93", "inst": b"ios\nsystem\n",
                     "obj": b"o", "ext1": b"\x82\1", "ext2": b"\x83\1\0",
                     "ext4": b"\x84\1\0\0\0", "persid": b"P1\n",
                     "newobj-ex": b"\x92", "bytes": b"C\0",
                     "next-buffer": b"\x97", "frame": b"\x95" + bytes(8),
                     "memoize": b"\x94"}.items():
        program("op-" + name, text("os") + text("system") + op)
    program("newobj", b"ctorch\nFloatStorage\n)\x81")
    program("newobj-dict", b"ccollections\nOrderedDict\n)\x81(" + text("w") +
            tensor() + b"u")
    program("call-type", called("torch", "FloatStorage"))
    program("call-text", text("os.system") + b")R")
    program("call-without", b"ctorch\nSize\nNR")
    program("build-dict", b"}}b")
    program("build-text", text("a") + b"}b")
    program("item-of-list", b"]" + text("a") + b"Ns")
    program("append-to-dict", b"}Na")
    program("odd-items", b"}(" + text("a") + b"u")
    program("protocol4", b"\x80\4" + sound[2:], True)
    program("protocol-twice", b"\x80\2")
    program("cut-pickle", sound[:-20], True)
    program("more-behind", sound + b"N.", True)
    program("middle", b"NN")
    program("empty-pickle", b"", True)
    program("no-mark", b"t")
    program("only-mark", b"(u")
    program("below-mark", b"N(\x85")
    program("empty-stack", b"R")
    program("marks", b"(" * 100)
    program("deep-lists", b"]" * 100 + b"a" * 99)
    program("deep-tuples", b"N" + b"\x85" * 100)
    program("own-list", b"]q\0" + b"h\0a" * 40)
    program("own-dict", b"}q\0" + text("model") + b"h\0s")
    program("memo-missing", b"h\7")
    program("memo-huge", b"Nr\xff\xff\xff\xff")
    program("long", b"\x8a\x09" + bytes(9))
    # tensors
    for name, t in {
            "storage-tuple": storage(4, first="module"),
            "storage-int": number(3) + b"Q",
            "size-text": tensor(size=()).replace(b"(t", text("x"), 1),
            "shapes": tensor(size=(2, 2), stride=(1,)),
            "dims": tensor(size=(1,) * 9, stride=(1,) * 9),
            "negative-size": tensor(size=(-2, 2)),
            "negative-stride": tensor(stride=(-2, 1)),
            "negative-offset": tensor(offset=-1),
            "beyond": tensor(offset=1),
            "stride": tensor(stride=(3, 1)),
            "stride-overflow": tensor(stride=(2 ** 62, 1)),
            "size-overflow": tensor(size=(2 ** 40, 2 ** 40)),
            "size-empty": tensor(size=(0, 2 ** 40, 2 ** 32),
                                 stride=(1, 1, 1)),
            "expanded": tensor(size=(4, 2), stride=(0, 1)),
            "no-storage": tensor(where=storage(4, key="1")),
            "storage-path": tensor(where=storage(4, key="../data/0")),
            "storage-short": tensor(where=storage(5)),
            "storage-negative": tensor(where=storage(-4)),
            "storage-overflow": tensor(where=storage(2 ** 62)),
            "untyped": tensor(where=storage(16, "UntypedStorage", "0",
                                            "storage", "torch.storage")),
    }.items():
        program("tensor-" + name, dictionary(("w", t)))
    program("tensor-view", dictionary(("w", tensor(stride=(1, 2))),
                                      ("v", tensor((2,), (3,)))))
    # dictionaries
    program("roots", dictionary(("generator", dictionary(("w", tensor()))),
                                ("critic", b"N")))
    program("two-generators", dictionary(("generator", b"}"),
                                         ("generator", b"}")))
    program("two-tensors", dictionary(("w", tensor()), ("w", tensor())))
    program("no-tensors", dictionary(("step", number(3)), ("x\n", b"N")))
    program("root-list", b"]")
    program("nul", dictionary(("a\0b", tensor())))
    program("long-name", dictionary(("a" * 600, tensor())))
    program("control-name", dictionary(("a\nb", tensor())))
    # the fuzzer puts these into archives
    save("torch", "pickle", sound)
    for pad in range(4): # the length chooses how it is loaded
        save("torch", f"pickle-view-{pad}", pickled(dictionary(
            ("w", tensor(stride=(1, 2))),
            ("x", tensor((2, 1, 1, 1, 2), (1, 9, 9, 9, 2))),
            ("p" * pad, b"N"))))
    save("torch", "pickle-types", pickled(dictionary(
        ("w", called("torch._utils", "_rebuild_tensor_v3", b"(" + storage(
            8, "UntypedStorage", "0", "storage", "torch.storage") +
            number(1) + numbers((4,)) + numbers((2,)) + b"\x89N" +
            b"ctorch\nfloat8_e4m3fn\nt")),
        ("v", called("torch._utils", "_rebuild_parameter",
                     tensor() + b"\x88)\x87")),
        ("h", tensor(where=storage(8, "HalfStorage"))),
        ("a", b"](K\1G" + bytes(8) + b"M\1\2\x8a\2\1\xffNe"),
        ("b", b"}q\1(" + text("c") + b"U\1dj\1\0\0\0\x85K\1\x86u"),
        ("s", called("torch", "Size", numbers((1, 2)) + b"\x85")))))
    # of torch.save() before 1.6: a number, a version, what the machine is like
    save("torch", "legacy", b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." +
         b"\x80\2M\xe9\3." + b"\x80\2}q\0(" + text("little_endian") +
         b"\x88u." + sound + b"\x80\2]q\0" + text("0") + b"a." +
         struct.pack("<Q", 4) + bytes(16))


# ---- GGUF: tests/unit/test_gguf.c knows what is said


def gguf_string(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def gguf_file(metadata=(), tensors=(), data=None, version=3, counts=None,
              align=32):
    """metadata: (key, type, bytes); tensors: (name, dims, type, offset)."""
    n = counts or (len(tensors), len(metadata))
    out = struct.pack("<4sIQQ", b"GGUF", version, *n)
    for key, kind, value in metadata:
        out += gguf_string(key) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += gguf_string(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, offset)
    out += bytes(-len(out) % align)
    return out + (bytes(64) if data is None else data)


def gguf_files():
    u32, string, array, i32, u8 = 4, 8, 9, 5, 0

    def put(name, *args, **more):
        save("gguf", name, gguf_file(*args, **more))

    def one(name, *tensors, metadata=(), **more):
        put(name, metadata, tensors, **more)

    def number32(n):
        return struct.pack("<I", n)

    def list_of(kind, n, values):
        return struct.pack("<IQ", kind, n) + values

    arch = ("general.architecture", string, gguf_string("wan"))
    w = ("w", (4, 2), 0, 0)
    put("sound", [arch, ("a", u8, b"\1"), ("b", array, list_of(string, 2,
        gguf_string("x") + gguf_string("")))], [w, ("v", (32,), 2, 32)])
    put("version2", [arch], [w], version=2)
    put("empty")
    put("version1", version=1)
    put("version4", version=4)
    put("big-endian", version=3 << 24)
    put("many-tensors", counts=(1 << 60, 0))
    put("many-metadata", counts=(0, 1 << 60))
    put("metadata-short", counts=(0, 3))
    put("key-twice", [arch, arch])
    put("value-type", [("a", 13, b"")])
    put("array-type", [("a", array, list_of(99, 1, b""))])
    put("array-long", [("a", array, list_of(u32, 1 << 62, b""))])
    put("strings-long", [("a", array, list_of(string, 1 << 62, b""))])
    put("string-long", [("a", string, struct.pack("<Q", 2 ** 64 - 8))])
    put("nested", [("a", array, list_of(array, 1, list_of(u8, 2, b"ab")))])
    put("nested-deep", [("a", array, list_of(array, 1, b"") * 8)])
    put("alignment-0", [("general.alignment", u32, number32(0))])
    put("alignment-3", [("general.alignment", u32, number32(24))])
    put("alignment-64", [("general.alignment", u32, number32(64))], [w],
        align=64)
    put("split", [("split.count", 2, b"\3\0")])
    one("iq4", ("w", (256,), 23, 0))
    one("type", ("w", (256,), 99, 0))
    one("dims", ("w", (1,) * 9, 0, 0))
    one("size", ("w", (1 << 40, 1 << 40), 0, 0))
    one("size-negative", ("w", (1 << 63, 0), 0, 0))
    one("size-empty", ("w", (1 << 32, 1 << 40, 0), 0, 0))
    one("rows", ("w", (16, 4), 2, 0))
    one("outside", ("w", (4, 2), 0, 64))
    one("outside-far", ("w", (4, 2), 0, 2 ** 64 - 32))
    one("unaligned", ("w", (4, 2), 0, 4))
    one("overlap", w, ("v", (4, 4), 0, 0))
    one("name-twice", w, ("w", (4, 2), 0, 32))
    one("name-empty", ("", (4,), 0, 0))
    one("name-long", ("n" * 600, (4,), 0, 0))
    one("name-nul", ("a\0b", (4,), 0, 0))
    one("name-control", ("a\nb", (4,), 0, 0))
    one("cut", w, data=bytes(31))
    shape = "comfy.gguf.orig_shape.w"
    one("shape", w, metadata=[(shape, array, list_of(
        i32, 3, struct.pack("<iii", 2, 2, 2)))])
    one("shape-other", w, metadata=[(shape, array, list_of(
        i32, 1, struct.pack("<i", 7)))])
    one("shape-negative", w, metadata=[(shape, array, list_of(
        i32, 2, struct.pack("<ii", -2, -4)))])
    one("shape-text", w, metadata=[(shape, string, gguf_string("8"))])
    blocks = (18, 20, 22, 24, 34, 84, 110, 144, 176, 210)
    for kind, size in zip((2, 3, 6, 7, 8, 10, 11, 12, 13, 14), blocks):
        one(f"blocks-{kind}", ("w", (256, 1), kind, 0),
            data=bytes(size * (1 if size > 34 else 8)))
    one("blocks-nan", ("w", (32,), 8, 0), data=b"\xff" * 34)

    # tokenizers, as llama.cpp writes those of T5; types as in a spiece.model
    vocabulary = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2),
                  ("\u2581", -2.0, 1), ("a", -1.0, 1), ("[web]", 0.0, 4),
                  ("\u2581a", -1.5, 1)]
    added = [("<extra_id_1>", -1000.0, 4), ("<extra_id_0>", -1000.0, 4),
             ("[PAD9]", -10000.0, 5), ("[PAD10]", -10000.0, 5)]

    def tokenizer(name, pieces=vocabulary + added, model="t5", float32=6,
                  fewer=0, without=""):
        words = [gguf_string(text) for text, _, _ in pieces]
        scores = [struct.pack("<f", score) for _, score, _ in pieces]
        types = [number32(kind) for _, _, kind in pieces]
        values = [("model", string, gguf_string(model))]
        for key, kind, items in (("tokens", string, words),
                                 ("scores", float32, scores[fewer:]),
                                 ("token_type", i32, types)):
            values.append((key, array, list_of(kind, len(items),
                                               b"".join(items))))
        put("tokenizer" + name, [arch] + [("tokenizer.ggml." + key, kind, v)
            for key, kind, v in values if key != without], [w])

    tokenizer("")
    tokenizer("-no-model", without="model")
    tokenizer("-llama", model="llama")
    tokenizer("-long-model", model="t5" * 40)
    tokenizer("-no-scores", without="scores")
    tokenizer("-no-types", without="token_type")
    tokenizer("-fewer-scores", fewer=1)
    tokenizer("-whole-scores", float32=i32)
    tokenizer("-none", [])
    tokenizer("-only-added", added)
    tokenizer("-no-unknown", vocabulary[:2])
    tokenizer("-no-end", vocabulary[2:])
    tokenizer("-empty-piece", vocabulary + [("", 0.0, 1)])
    tokenizer("-long-piece", vocabulary + [("x" * 600, 0.0, 1)])
    tokenizer("-bytes", vocabulary + [(b"\xff\xfe", 0.0, 1)])
    tokenizer("-nul", vocabulary + [("a\0b", 0.0, 1)])
    tokenizer("-score-nan", vocabulary + [("b", float("nan"), 1)])
    tokenizer("-type", vocabulary + [("b", 0.0, 7)])
    tokenizer("-type-negative", vocabulary + [("b", 0.0, 0xffffffff)])
    tokenizer("-twice", vocabulary + [("a", 0.0, 1)])


def loras():
    """For the transformer of fuzz_lora.c."""
    q = "blocks.0.self_attn.q"
    flat = "lora_unet_blocks_0_self_attn_q"
    ffn = "diffusion_model.blocks.0.ffn.0"

    def pair(stem, down, up, out, in_, rank=2, dtype="F16"):
        return [(stem + down, dtype, [rank, in_]),
                (stem + up, dtype, [out, rank])]

    def put(name, tensors):
        for pad in range(2):
            save("lora", f"{name}-{pad}", container(tensors, pad=pad))

    ab = (".lora_A.weight", ".lora_B.weight")
    put("kijai", pair("diffusion_model." + q, *ab, 4, 3) + pair(
        ffn, *ab, 16, 2, dtype="BF16") + [
        ("diffusion_model.blocks.0.diff_m", "F32", [1, 6, 2]),
        ("diffusion_model.blocks.0.norm3.diff", "F16", [2]),
        ("diffusion_model." + q + ".diff_b", "F64", [4]),
        ("diffusion_model.patch_embedding.diff", "F16", [2, 2, 1, 2, 2])])
    put("kohya", pair(flat, ".lora_down.weight", ".lora_up.weight", 4, 3) + [
        (flat + ".alpha", "F32", [])])
    put("diffusers", pair("transformer.blocks.0.attn1.to_q", *ab, 4, 3, 1))
    put("peft", pair("base_model.model." + q, ".lora_A.default.weight",
                     ".lora_B.default.weight", 4, 3, 3, "F32"))
    put("conv", pair("patch_embedding", ".lora_down.weight",
                     ".lora_up.weight", 2, 8))
    put("other-width", pair(q, *ab, 4, 5))
    put("alone", pair(q, *ab, 4, 3)[:1])
    put("unknown", pair("blocks.9.ffn.0", *ab, 4, 3))
    put("kinds", [(q + ".hada_w1_a", "F16", [2, 2])])
    put("images", [("img_emb.proj.1.diff_b", "F16", [2])] + pair(
        q, *ab, 4, 3))
    put("twice", pair(q, *ab, 4, 3) + pair("model." + q, *ab, 4, 3))


weights()
networks()
texts()
tokenizers()
torch_files()
gguf_files()
loras()
