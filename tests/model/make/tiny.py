"""Make tests/model/fixtures/vae/tiny*: random tiny decoders and what they give.

Run from the root of the repository: python3 tests/model/make/tiny.py
Needs torch and safetensors; see README in this folder.

The network is TAEHV's taew2_1, narrow, written from the description of its
tensors and arithmetic (all frames at once, memory by shifting time), since
neither diffusers nor transformers has it. Each fixture is a folder with
taew2_1.safetensors, `tiny` also with the same tensors in taew2_1.pth, and
clips.safetensors:
  latents [t, z, h, w]  as the transformer makes them
  frames [n, H, W, 3]   2 * decode(latents) - 1, in float64
  bf16_error            of the same in bf16: |difference| / |frames|
"""

import os
import shutil

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "vae")

FIXTURES = {
    # The published graph, and both of its containers.
    "tiny": dict(seed=1, size=(3, 4), latents=5, dtype=torch.float16,
                 channels=16, widths=(12, 8, 6, 5), pth=True),
    # A decoder that was trained to give more frames, of which the last ones
    # are taken; odd sizes.
    "tiny-more": dict(seed=2, size=(5, 7), latents=3, dtype=torch.float32,
                      channels=4, widths=(6, 7, 4, 3), rows=(2, 2, 4)),
}

FRAMES = (1, 2, 2)  # that growth makes of one


def conv(inputs, outputs, **kwargs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **kwargs)


class SoftClamp(nn.Module):
    def forward(self, x):
        return 3 * torch.tanh(x / 3)


class Memory(nn.Module):
    """A residual block that sees each frame [t, c, h, w] and its past."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Sequential(conv(2 * c, c), nn.ReLU(), conv(c, c),
                                  nn.ReLU(), conv(c, c))

    def forward(self, x):
        past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class Grow(nn.Module):
    def __init__(self, c, frames, rows):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(c, c * rows, 1, bias=False)

    def forward(self, x):
        t, c, h, w = x.shape
        weight = self.conv.weight[-self.frames * c:]
        return F.conv2d(x, weight).reshape(t * self.frames, c, h, w)


class Pool(nn.Module):
    """Of the encoder, which is only there to be ignored."""

    def __init__(self, c, frames):
        super().__init__()
        self.conv = nn.Conv2d(c * frames, c, 1, bias=False)


class Tiny(nn.Module):
    def __init__(self, channels, widths, rows):
        super().__init__()
        c = widths[-1]
        encoder = [conv(3, c), nn.ReLU()]
        for frames in 2, 2, 1:
            encoder += [Pool(c, frames), conv(c, c, stride=2, bias=False),
                        Memory(c), Memory(c), Memory(c)]
        self.encoder = nn.Sequential(*encoder, conv(c, channels))
        decoder = [SoftClamp(), conv(channels, widths[0]), nn.ReLU()]
        for i in range(3):
            c, out = widths[i], widths[i + 1]
            decoder += [Memory(c), Memory(c), Memory(c),
                        nn.Upsample(scale_factor=2),
                        Grow(c, FRAMES[i], rows[i]), conv(c, out, bias=False)]
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), conv(widths[3], 3))

    def decode(self, latents):
        """[t, z, h, w] -> [1 + 4 (t - 1), 3, 8 h, 8 w], RGB in 0..1"""
        return self.decoder(latents)[3:].clamp(0, 1)


@torch.no_grad()
def make(name, seed, size, latents, dtype, channels, widths, rows=FRAMES,
         pth=False):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)

    g = torch.Generator().manual_seed(seed)
    net = Tiny(channels, widths, rows).eval()
    for p in net.parameters():
        scale = 0.2 if p.dim() == 1 else (2 / p[0].numel()) ** 0.5
        p.copy_(scale * torch.randn(p.shape, generator=g))
    x = 1.5 * torch.randn(latents, channels, *size, generator=g)

    # Most values inside 0..1, where decode() clamps: scale the last layer.
    last = net.decoder[22]
    last.bias.zero_()
    last.weight.mul_(0.2 / net.decoder(x).std())
    last.bias.add_(0.5 - net.decoder(x).mean((0, 2, 3)))

    net.to(dtype)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    net.to(torch.float32)  # the values that the file holds
    frames = 2 * net.decode(x) - 1
    exact = 2 * net.to(torch.float64).decode(x.double()) - 1
    error = ((frames - exact).norm() / exact.norm()).item()
    half = 2 * net.to(torch.bfloat16).decode(x.bfloat16()).double() - 1
    bf16_error = ((half - exact).norm() / exact.norm()).item()

    save_file(state, os.path.join(folder, "taew2_1.safetensors"))
    if pth:
        torch.save(state, os.path.join(folder, "taew2_1.pth"))
    save_file({"latents": x,
               "frames": exact.float().permute(0, 2, 3, 1).contiguous(),
               "bf16_error": torch.tensor([bf16_error])},
              os.path.join(folder, "clips.safetensors"))
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    clamped = (frames.abs() == 1).float().mean().item()
    print(f"{name}: {sum(p.numel() for p in net.parameters())} parameters, "
          f"frames {tuple(frames.shape)} std {frames.std():.3f}, "
          f"{100 * clamped:.1f} % clamped, float32 is {error:.1e} off, bf16 "
          f"{bf16_error:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture, settings in FIXTURES.items():
        make(fixture, **settings)
