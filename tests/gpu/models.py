"""Random models of real widths in the diffusers layout, on the local disk.

SPDX-License-Identifier: BSD-2-Clause

Both sides read the same files, so the weights are the same by construction.
Every value is one that bfloat16 holds: what differs later is arithmetic, not
the rounding of weights. Scales are such that activations are of order 1, that
attention prefers some keys (a softmax over 30,000 equal ones would hide every
error) and that every bias, norm and modulation shows.
"""
import json
import os
import shutil

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

TEXT_ROWS = 512

# "full": the published sizes; layers are cut by options where they repeat.
SCALES = {
    "full": {
        "size": (832, 480),
        "text": dict(vocab_size=256384, d_model=4096, d_kv=64, num_heads=64,
                     d_ff=10240),
        "vae": dict(base_dim=96, z_dim=16),
        "vae_probe": (3, 8, 12),
        "causal": dict(num_attention_heads=12, attention_head_dim=128,
                       text_dim=4096, freq_dim=256, ffn_dim=8960),
        "wide": dict(num_attention_heads=40, attention_head_dim=128,
                     text_dim=4096, freq_dim=256, ffn_dim=13824),
        "layers": {"text": 4, "causal": 30, "wide": 4},
        "latents": 21, "window": 21,
        # Latent frames of the float32 runs, which are slow on purpose.
        "short": {"causal": 6, "wide": 3},
    },
    "tiny": {
        "size": (48, 32),
        "text": dict(vocab_size=720, d_model=48, d_kv=8, num_heads=6,
                     d_ff=80),
        "vae": dict(base_dim=4, z_dim=16, num_res_blocks=1),
        "vae_probe": (2, 4, 6),
        "causal": dict(num_attention_heads=2, attention_head_dim=32,
                       text_dim=48, freq_dim=32, ffn_dim=144),
        "wide": dict(num_attention_heads=1, attention_head_dim=128,
                     text_dim=48, freq_dim=64, ffn_dim=160),
        "layers": {"text": 2, "causal": 2, "wide": 2},
        "latents": 9, "window": 6,
        "short": {"causal": 6, "wide": 3},
    },
}

RECIPES = {
    "causal": {"variant": "causal", "frames_per_block": 3,
               "sampler": "causvid", "timesteps": [1000, 757, 522],
               "warp": False, "shift": 8.0},
    "wide": {"variant": "bidirectional", "sampler": "euler", "steps": 2,
             "shift": 3.0},
}


def noise(parameter):
    return torch.randn(parameter.shape, device=parameter.device)


@torch.no_grad()
def fill_transformer(model):
    for name, p in model.named_parameters():
        if "scale_shift_table" in name:
            p.copy_(0.5 * noise(p))
        elif name.endswith("bias"):
            p.copy_(0.2 * noise(p))
        elif "norm_q" in name or "norm_k" in name:
            # Scores deviate by 1.6 x 1.6: a few dozen of 30,000 keys matter.
            p.copy_(1.6 * (1 + 0.3 * noise(p)))
        elif p.ndim == 1:
            p.copy_(1 + 0.3 * noise(p))
        else:
            p.copy_(noise(p) / p[0].numel() ** 0.5)


@torch.no_grad()
def fill_text(model):
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.copy_(1 + 0.3 * noise(p))
        elif "relative_attention_bias" in name or "shared" in name:
            p.copy_(noise(p))
        else:
            # T5 does not divide scores by sqrt(d_kv): its weights do.
            gain = 2 * model.config.d_kv ** -0.5 if ".q." in name else 1
            p.copy_(gain * noise(p) / p.shape[1] ** 0.5)


@torch.no_grad()
def fill_vae(vae, probe):
    for name, p in vae.named_parameters():
        if name.endswith("gamma"):
            p.copy_(1 + 0.3 * noise(p))
        elif name.endswith("bias"):
            p.copy_(0.2 * noise(p))
        else:
            gain = 2 if "to_qkv" in name else 1
            p.copy_(gain * noise(p) / p[0].numel() ** 0.5)
    # Most values inside -1..1, where decode() clamps: scale the last layer.
    unclamped = []
    hook = vae.decoder.conv_out.register_forward_hook(
        lambda _, __, y: unclamped.append(y))
    vae.decode(2 * torch.randn(1, vae.config.z_dim, *probe,
                               device=vae.device))
    hook.remove()
    vae.decoder.conv_out.weight.mul_(0.4 / torch.cat(unclamped, 2).std())
    vae.decoder.conv_out.bias.mul_(0.5)


def save(model, folder):
    model.eval().to(torch.bfloat16).save_pretrained(folder)


def make_parts(root, scale, device, layers):
    """Text encoder and VAE, which both models share."""
    text, vae = os.path.join(root, "text_encoder"), os.path.join(root, "vae")
    if not os.path.isdir(text):
        with torch.device(device):
            model = UMT5EncoderModel(UMT5Config(
                **SCALES[scale]["text"], num_layers=layers["text"],
                feed_forward_proj="gated-gelu", dropout_rate=0.0))
        fill_text(model)
        save(model, text)
    if not os.path.isdir(vae):
        with torch.device(device):
            model = AutoencoderKLWan(**SCALES[scale]["vae"]).eval()
        fill_vae(model, SCALES[scale]["vae_probe"])
        save(model, vae)


def make_model(root, name, scale, device, layers, tokenizer):
    """Folder of the model `name` ("causal" or "wide") below root."""
    torch.manual_seed({"causal": 21, "wide": 22}[name])
    s = SCALES[scale]
    make_parts(root, scale, device, layers)
    folder = os.path.join(root, name)
    if os.path.isdir(folder):
        return folder
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(os.path.join(part, "tokenizer"))
    with torch.device(device):
        model = WanTransformer3DModel(
            in_channels=16, out_channels=16, num_layers=layers[name],
            **s[name])
    fill_transformer(model)
    save(model, os.path.join(part, "transformer"))
    for shared in ("text_encoder", "vae"):
        os.symlink(os.path.join("..", shared), os.path.join(part, shared))
    # Prompts are given as token ids, but a model without one is refused.
    shutil.copy(tokenizer, os.path.join(part, "tokenizer", "spiece.model"))
    with open(os.path.join(part, "model_index.json"), "w") as f:
        json.dump({"_class_name": "WanPipeline"}, f)
    recipe = dict(RECIPES[name], width=s["size"][0], height=s["size"][1],
                  rate=16, frames=4 * (s["latents"] - 1) + 1, guidance=1.0)
    if name == "causal":
        recipe["window"] = s["window"]
    with open(os.path.join(part, "recipe.json"), "w") as f:
        json.dump(recipe, f)
    os.rename(part, folder)
    return folder


def make_inputs(name, scale, latents):
    """Inputs of `causvid trace`, on the CPU; those of fewer latent frames are
    the beginning of those of more."""
    s, recipe = SCALES[scale], RECIPES[name]
    g = torch.Generator().manual_seed(23)
    width, height = s["size"]
    tokens = 40
    ids = torch.randint(4, s["text"]["vocab_size"], (tokens,), generator=g)
    ids[-1] = 1 # the end of a prompt
    shape = (16, height // 8, width // 8)
    inputs = {"token_ids": ids}
    inputs["noise"] = torch.randn(s["latents"], *shape, generator=g)[:latents]
    if name == "causal":
        frames = recipe["frames_per_block"]
        for block in range(latents // frames):
            for step in range(1, len(recipe["timesteps"])):
                inputs[f"renoise.{block}.{step}"] = torch.randn(
                    frames, *shape, generator=g)
    inputs["noise"] = inputs["noise"].contiguous()
    return inputs
