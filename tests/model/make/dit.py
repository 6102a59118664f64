#!/usr/bin/env python3
"""Make the transformer's fixtures with diffusers' WanTransformer3DModel.

SPDX-License-Identifier: BSD-2-Clause

Usage: dit.py [FOLDER]      (default: ../fixtures/dit beside this script)

Each model is a small random one whose weights are "alive": every bias, norm
and modulation differs from its default, so that a term that is left out, or a
wrong row of the modulation, shows. MODEL-cases.safetensors holds
case.N.{x,text,timestep,flow}; x and flow are [frames, channels, h, w].
"""
import json
import os
import sys

import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from safetensors.torch import save_file

TEXT_ROWS = 512


def make_alive(model, gain=1.0):
    """Redraw all parameters so that activations stay of order 1."""
    for name, parameter in model.named_parameters():
        data = parameter.data
        noise = torch.randn_like(data)
        if "scale_shift_table" in name:
            data.copy_(0.5 * noise)
        elif name.endswith("bias"):
            data.copy_(0.3 * noise)
        elif data.ndim == 1 or "norm" in name:
            data.copy_(1 + 0.3 * noise)
        else:
            data.copy_(gain * noise / data[0].numel() ** 0.5)


def round_to_bf16(model):
    """Leave values in the matrices that bfloat16 holds exactly."""
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.shape[0] != 1:
            parameter.data = parameter.data.bfloat16().float()


def save_bf16(model, folder):
    """As most published files: matrices in bfloat16, the rest in float32."""
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.shape[0] != 1:
            parameter.data = parameter.data.bfloat16()
    model.save_pretrained(folder)


def pad_text(text):
    """Zero rows up to 512, as Wan and CausVid feed them."""
    padded = torch.zeros(1, TEXT_ROWS, text.shape[1])
    padded[0, : text.shape[0]] = text
    return padded


@torch.no_grad()
def forward(model, x, text, timestep):
    """Plain diffusers forward; x: [frames, channels, h, w]."""
    flow = model(
        hidden_states=x.transpose(0, 1)[None],
        timestep=torch.tensor([timestep], dtype=torch.float32),
        encoder_hidden_states=pad_text(text),
        return_dict=False,
    )[0]
    return flow[0].transpose(0, 1).contiguous()


def make_cases(model, folder, shapes):
    cases = {}
    for i, (frames, h, w, rows, timestep) in enumerate(shapes):
        x = torch.randn(frames, model.config.in_channels, h, w)
        text = torch.randn(rows, model.config.text_dim)
        flow = forward(model, x, text, timestep)
        print(f"{folder}: case {i}: flow has deviation {flow.std():.3f}")
        cases[f"case.{i}.x"] = x
        cases[f"case.{i}.text"] = text
        cases[f"case.{i}.timestep"] = torch.tensor([timestep])
        cases[f"case.{i}.flow"] = flow
    save_file(cases, folder + "-cases.safetensors")


# checkpoints: official name of each diffusers module (longest first).
OFFICIAL = [
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."), (".to_k.", ".k."), (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".ffn.net.0.proj.", ".ffn.0."), (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
]


def official_name(name):
    if name == "scale_shift_table":
        return "head.modulation"
    for old, new in OFFICIAL:
        name = name.replace(old, new)
    return name


def save_official(model, folder):
    """The layout of the Wan-AI repositories: official names and config."""
    c = model.config
    tensors = {official_name(k): v.contiguous() for k, v in
               model.state_dict().items()}
    save_file(tensors, os.path.join(folder,
                                    "diffusion_pytorch_model.safetensors"))
    config = {
        "_class_name": "WanModel", "_diffusers_version": "0.30.0",
        "dim": c.num_attention_heads * c.attention_head_dim, "eps": c.eps,
        "ffn_dim": c.ffn_dim, "freq_dim": c.freq_dim, "in_dim": c.in_channels,
        "model_type": "t2v", "num_heads": c.num_attention_heads,
        "num_layers": c.num_layers, "out_dim": c.out_channels,
        "text_len": TEXT_ROWS,
    }
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def make_model(seed, **config):
    torch.manual_seed(seed)
    model = WanTransformer3DModel(**config).eval()
    make_alive(model)
    return model


def main(root):
    # Head size 128, as all published models have; diffusers names, bfloat16.
    folder = os.path.join(root, "head128")
    os.makedirs(folder, exist_ok=True)
    model = make_model(1, num_attention_heads=1, attention_head_dim=128,
                       in_channels=16, out_channels=16, text_dim=24,
                       freq_dim=32, ffn_dim=144, num_layers=1)
    round_to_bf16(model)
    make_cases(model, folder, [(3, 6, 10, 9, 1000.0), (2, 4, 2, 40, 0.0)])
    save_bf16(model, folder)

    # Small heads, official names, more layers, every kind of timestep and
    # length of text.
    folder = os.path.join(root, "official")
    os.makedirs(folder, exist_ok=True)
    model = make_model(2, num_attention_heads=2, attention_head_dim=14,
                       in_channels=5, out_channels=5, text_dim=10,
                       freq_dim=18, ffn_dim=42, num_layers=3)
    make_cases(model, folder, [
        (3, 6, 10, 7, 1000.0), (5, 2, 6, 1, 0.0), (4, 10, 4, 300, 522.25),
        (1, 4, 6, 511, 888.8889), (3, 2, 2, 512, 7.5)])
    save_official(model, folder)

    # Without the norm before cross attention.
    folder = os.path.join(root, "no-norm3")
    os.makedirs(folder, exist_ok=True)
    model = make_model(3, num_attention_heads=2, attention_head_dim=8,
                       in_channels=3, out_channels=3, text_dim=6, freq_dim=8,
                       ffn_dim=20, num_layers=2, cross_attn_norm=False,
                       eps=1e-3)
    make_cases(model, folder, [(3, 4, 6, 5, 757.0)])
    model.save_pretrained(folder)

    # Kinds that are refused; only their names matter.
    tiny = dict(num_attention_heads=1, attention_head_dim=8, text_dim=4,
                freq_dim=4, ffn_dim=4, num_layers=1, out_channels=4)
    torch.manual_seed(4)
    refused = {
        "i2v": WanTransformer3DModel(in_channels=9, image_dim=4,
                                     added_kv_proj_dim=8, **tiny),
        "flf2v": WanTransformer3DModel(in_channels=9, image_dim=4,
                                       added_kv_proj_dim=8,
                                       pos_embed_seq_len=6, **tiny),
        "channels": WanTransformer3DModel(in_channels=9, **tiny),
        "vace": WanVACETransformer3DModel(in_channels=4, vace_layers=[0],
                                          vace_in_channels=4, **tiny),
    }
    for name, model in refused.items():
        tensors = {k: v.to(torch.bfloat16) for k, v in
                   model.state_dict().items()}
        os.makedirs(os.path.join(root, "refused"), exist_ok=True)
        save_file(tensors, os.path.join(root, "refused",
                                        f"{name}.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) > 1 else
         os.path.join(here, "..", "fixtures", "dit"))
