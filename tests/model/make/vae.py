"""Make tests/model/fixtures/vae: random small VAEs and what diffusers computes.

Run from the root of the repository: python3 tests/model/make/vae.py
Needs torch, diffusers and safetensors; see README in this folder.

Each fixture is a folder with the weights, a config.json (but for `wan`, which
lies there as the official file would: official names, no config) and
clips.safetensors:
  latents [t, z, h, w]  normalised, as the transformer makes them
  frames [n, H, W, 3]   AutoencoderKLWan.decode of latents * std + mean
  encoded [t, z, h, w]  (mode of AutoencoderKLWan.encode(frames) - mean) / std
"""

import json
import os
import shutil

import torch
from diffusers import AutoencoderKLWan, logging
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "vae")

FIXTURES = {
    # The graph of the real model, narrow. 16 channels: default statistics.
    "wan": dict(seed=1, size=(3, 4), latents=5, dtype=torch.bfloat16,
                config=dict(base_dim=4, z_dim=16)),
    # Widths that are no powers of two, one residual block, odd sizes.
    "narrow": dict(seed=2, size=(5, 7), latents=2, dtype=torch.float32,
                   config=dict(base_dim=3, z_dim=4, dim_mult=[1, 2, 2, 4],
                               num_res_blocks=1)),
    # Two resamplers, the one beside the pictures with time, a decoder that is
    # wider than the encoder.
    "short": dict(seed=3, size=(5, 7), latents=5, dtype=torch.float16,
                  config=dict(base_dim=3, decoder_base_dim=5, z_dim=6,
                              dim_mult=[1, 2, 3], num_res_blocks=1,
                              temperal_downsample=[True, False],
                              scale_factor_spatial=4,
                              scale_factor_temporal=2)),
}


def enliven(vae, g):
    """Weights of order 1 everywhere: no zero bias, no gamma of 1."""
    for name, p in vae.named_parameters():
        if name.endswith("gamma"):
            p.copy_(1 + 0.3 * torch.randn(p.shape, generator=g))
        elif name.endswith("bias"):
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
        else:
            fan_in = p[0].numel()
            gain = 2 if "to_qkv" in name else 1
            p.copy_(gain * torch.randn(p.shape, generator=g) / fan_in**0.5)


def official_names(state):
    """{official name: tensor}, by diffusers' own converter run on names."""
    parts = ["residual.0.gamma", "residual.3.gamma"]
    for conv in ("residual.2", "residual.6", "shortcut", "resample.1",
                 "time_conv"):
        parts += [conv + ".weight", conv + ".bias"]
    names = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    for root, blocks in ("encoder", "downsamples"), ("decoder", "upsamples"):
        for name in ("conv1.weight", "conv1.bias", "head.0.gamma",
                     "head.2.weight", "head.2.bias", "middle.1.norm.gamma",
                     "middle.1.to_qkv.weight", "middle.1.to_qkv.bias",
                     "middle.1.proj.weight", "middle.1.proj.bias"):
            names.append(f"{root}.{name}")
        for part in parts:
            names += [f"{root}.middle.{i}.{part}" for i in (0, 2)]
            names += [f"{root}.{blocks}.{i}.{part}" for i in range(15)]
    known = convert_wan_vae_to_diffusers({name: name for name in names})
    result = {known[name]: tensor for name, tensor in state.items()}
    assert len(result) == len(state)
    return result


@torch.no_grad()
def make(name, seed, size, latents, dtype, config):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)

    g = torch.Generator().manual_seed(seed)
    z = config["z_dim"]
    if z != 16:
        mean = torch.randn(z, generator=g)
        std = 0.5 + 2 * torch.rand(z, generator=g)
        config = dict(config, latents_mean=[round(v, 4) for v in mean.tolist()],
                      latents_std=[round(v, 4) for v in std.tolist()])
    vae = AutoencoderKLWan(**config).eval()
    enliven(vae, g)

    mean = torch.tensor(vae.config.latents_mean).view(1, z, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, z, 1, 1, 1)
    x = torch.randn(1, z, latents, *size, generator=g)

    # Most values inside -1..1, where decode() clamps: scale the last layer.
    unclamped = []
    hook = vae.decoder.conv_out.register_forward_hook(
        lambda _, __, y: unclamped.append(y))
    vae.decode(x * std + mean)
    hook.remove()
    spread = torch.cat(unclamped, 2).std()
    vae.decoder.conv_out.weight.mul_(0.4 / spread)
    vae.decoder.conv_out.bias.mul_(0.5)

    vae.to(dtype).to(torch.float32)  # the values that the file holds
    frames = vae.decode(x * std + mean).sample
    encoded = (vae.encode(frames).latent_dist.mode() - mean) / std
    for t in range(1, latents):  # shorter clips are beginnings of this one
        part = vae.decode((x * std + mean)[:, :, :t]).sample
        assert torch.allclose(part, frames[:, :, :part.shape[2]], atol=1e-6)

    vae.to(dtype)
    if name == "wan":
        save_file(official_names(vae.state_dict()),
                  os.path.join(folder, "Wan2.1_VAE.safetensors"))
    else:
        vae.save_pretrained(folder)
        path = os.path.join(folder, "config.json")
        with open(path) as f:
            saved = {k: v for k, v in json.load(f).items()
                     if k != "_name_or_path"}
        with open(path, "w") as f:
            json.dump(saved, f, indent=2)
            f.write("\n")

    save_file({"latents": x[0].permute(1, 0, 2, 3).contiguous(),
               "frames": frames[0].permute(1, 2, 3, 0).contiguous(),
               "encoded": encoded[0].permute(1, 0, 2, 3).contiguous()},
              os.path.join(folder, "clips.safetensors"))
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    clamped = (frames.abs() == 1).float().mean().item()
    print(f"{name}: {sum(p.numel() for p in vae.parameters())} parameters, "
          f"frames {tuple(frames.shape)} std {frames.std():.3f}, "
          f"{100 * clamped:.1f} % clamped, encoded std {encoded.std():.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    for fixture, settings in FIXTURES.items():
        make(fixture, **settings)
