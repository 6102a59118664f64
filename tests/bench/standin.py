"""The networks of Wan 2.1 and CausVid in plain PyTorch, computed the way that
their official code computes them: what causvid's speed is compared with.

SPDX-License-Identifier: BSD-2-Clause

Written from a description of the networks, with their official tensor names.
Nothing is fused by hand or compiled. Where the official code leaves a choice,
the faster one is taken: weights are bf16 already, an activation is cast once
for Q, K and V, tables of rotations are made once.

  Transformer  residual stream, norms, modulation, time path and head in
               float32, linears and attention in bf16, rotations in complex128
               (as Wan does); `causal`: all of it in bf16 with a modulation per
               latent frame and a cache of keys and values (as CausVid does)
  Decoder      of the VAE: channels first, a latent at a time, each convolution
               in time keeping its last two inputs; bf16 throughout
  TextEncoder  UMT5: bf16, statistics and softmax in float32

`python3 peer.py --selftest` compares them with diffusers and transformers.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------- transformer


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y.type_as(x) * self.weight


def layer_norm(x, weight=None, bias=None):
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)


def rotations(frames, rows, columns, first=0, head_dim=128, double=True):
    """[frames * rows * columns, 1, head_dim / 2], complex."""
    parts = []
    sixth = head_dim // 6
    for positions, dim, shape in (
            (torch.arange(first, first + frames), head_dim - 4 * sixth,
             (frames, 1, 1)),
            (torch.arange(rows), 2 * sixth, (1, rows, 1)),
            (torch.arange(columns), 2 * sixth, (1, 1, columns))):
        rates = 1e4 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.outer(positions.double(), rates)
        parts.append(torch.polar(torch.ones_like(angles), angles)
                     .view(*shape, -1).expand(frames, rows, columns, -1))
    table = torch.cat(parts, -1).reshape(frames * rows * columns, 1, -1)
    return table if double else table.to(torch.complex64)


def rotate(x, table):
    """x [B, T, heads, head_dim], pairs of neighbours as complex numbers."""
    y = x.to(table.real.dtype).unflatten(-1, (-1, 2))
    return torch.view_as_real(torch.view_as_complex(y) * table).flatten(
        -2).type_as(x)


def attend(q, k, v):
    """[B, T, heads, head_dim], back with the heads side by side."""
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim)
                                          for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def split(self, x):
        return x.unflatten(2, (self.heads, -1))

    def keys(self, x):
        return self.split(self.norm_k(self.k(x))), self.split(self.v(x))

    def over_itself(self, x, table, cache, first):
        x = x.to(self.q.weight.dtype)
        q = rotate(self.split(self.norm_q(self.q(x))), table)
        k, v = self.keys(x)
        k = rotate(k, table)
        if cache is not None:
            last = first + x.shape[1]
            cache["k"][:, first:last], cache["v"][:, first:last] = k, v
            k, v = cache["k"][:, :last], cache["v"][:, :last]
        return self.o(attend(q, k, v))

    def over_text(self, x, text, cache):
        x = x.to(self.q.weight.dtype)
        q = self.split(self.norm_q(self.q(x)))
        if cache is None:
            k, v = self.keys(text)
        else: # keys and values of the text are computed once a prompt
            if "text" not in cache:
                cache["text"] = self.keys(text)
            k, v = cache["text"]
        return self.o(attend(q, k, v))


class Block(nn.Module):
    def __init__(self, dim, heads, ffn_dim):
        super().__init__()
        self.self_attn, self.cross_attn = (Attention(dim, heads)
                                           for _ in range(2))
        self.norm3 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim),
                                 nn.GELU(approximate="tanh"),
                                 nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x, e0, text, table, cache=None, first=0):
        """x [B, T, D]; e0 [B, F, 6, D] for F equal parts of the tokens."""
        parts = e0.shape[1]
        e = (self.modulation[:, None] + e0).chunk(6, 2)

        def modulated(scale, shift):
            y = layer_norm(x).unflatten(1, (parts, -1))
            return (y * (1 + scale) + shift).flatten(1, 2)

        def gated(y, gate):
            return x + (y.unflatten(1, (parts, -1)) * gate).flatten(1, 2)

        x = gated(self.self_attn.over_itself(modulated(e[1], e[0]), table,
                                             cache, first), e[2])
        x = x + self.cross_attn.over_text(
            layer_norm(x, self.norm3.weight, self.norm3.bias), text, cache)
        y = modulated(e[4], e[3]).to(self.ffn[0].weight.dtype)
        return gated(self.ffn(y), e[5])


class Transformer(nn.Module):
    def __init__(self, dim, ffn_dim, heads, layers, causal, text_dim=4096,
                 freq_dim=256, channels=16):
        super().__init__()
        self.freq_dim, self.causal, self.channels = freq_dim, causal, channels
        self.patch_embedding = nn.Conv3d(channels, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"),
            nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(
            nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(),
                                             nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, heads, ffn_dim)
                                    for _ in range(layers))
        self.head = nn.Module()
        self.head.modulation = nn.Parameter(torch.zeros(1, 2, dim))
        self.head.head = nn.Linear(dim, 4 * channels)

    def set_precision(self, dtype):
        """bf16 weights, except those that Wan uses in float32."""
        self.to(dtype)
        if not self.causal:
            for part in (self.time_embedding, self.time_projection, self.head):
                part.float()
            for block in self.blocks:
                block.norm3.float()
                block.modulation.data = block.modulation.data.float()
        return self

    def new_cache(self, tokens, dtype):
        w = self.blocks[0].self_attn
        shape = (1, tokens, w.heads, w.q.out_features // w.heads)
        return [{name: torch.zeros(shape, dtype=dtype, device=w.q.weight.device)
                 for name in "kv"} for _ in self.blocks]

    def forward(self, latents, timestep, text, table, cache=None, first=0):
        """latents [B, C, F, H, W], text [B, 512, text_dim]; timestep [B, 1],
        causal: [B, F]; first: tokens in front of these, with a cache."""
        stream = self.head.head.weight.dtype
        work = self.patch_embedding.weight.dtype
        x = self.patch_embedding(latents.to(work))
        frames, rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2).to(stream)

        half = self.freq_dim // 2
        rates = 1e4 ** -(torch.arange(half, dtype=torch.float64,
                                      device=x.device) / half)
        angles = timestep.double()[..., None] * rates
        e = self.time_embedding(torch.cat([angles.cos(), angles.sin()],
                                          -1).to(stream))
        e0 = self.time_projection(e).unflatten(-1, (6, -1))
        text = self.text_embedding(text.to(work))
        for i, block in enumerate(self.blocks):
            x = block(x, e0, text, table, cache and cache[i], first)
        shift, scale = (self.head.modulation[:, None] +
                        e[:, :, None]).chunk(2, 2)
        x = layer_norm(x).unflatten(1, (e.shape[1], -1))
        x = self.head.head((x * (1 + scale) + shift).flatten(1, 2))
        x = x.view(-1, frames, rows, columns, 2, 2, self.channels)
        return torch.einsum("bfhwpqc->bcfhpwq", x).flatten(3, 4).flatten(4, 5)


# ------------------------------------------------------------- VAE decoder


class CausalConv(nn.Conv3d):
    """Three frames long: the two in front come from the state, or are zero."""

    def forward(self, x, state):
        past = state.get(self)
        keep = x[:, :, -2:].clone()
        if past is not None:
            if keep.shape[2] < 2:
                keep = torch.cat([past[:, :, -1:], keep], 2)
            x = torch.cat([past, x], 2)
        state[self] = keep
        missing = 2 - (0 if past is None else past.shape[2])
        edge = self.kernel_size[2] // 2
        return super().forward(F.pad(x, (edge,) * 4 + (missing, 0)))


class PixelNorm(nn.Module):
    def __init__(self, dim, images):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *(1,) * (2 if images
                                                            else 3)))

    def forward(self, x):
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma


class Residual(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        # Indexes are those of the official names: 5 is dropout.
        self.residual = nn.ModuleDict({
            "0": PixelNorm(a, False), "2": CausalConv(a, b, 3),
            "3": PixelNorm(b, False), "6": CausalConv(b, b, 3)})
        self.shortcut = nn.Conv3d(a, b, 1) if a != b else None

    def forward(self, x, state):
        part = self.residual
        y = part["2"](F.silu(part["0"](x)), state)
        y = part["6"](F.silu(part["3"](y)), state)
        return y + (x if self.shortcut is None else self.shortcut(x))


class FrameAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = PixelNorm(dim, True)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x, state):
        b, c, t, h, w = x.shape
        y = self.norm(x.transpose(1, 2).reshape(b * t, c, h, w))
        q, k, v = (self.to_qkv(y).flatten(2).transpose(1, 2)[:, None]
                   .contiguous().chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v)
        y = self.proj(y[:, 0].transpose(1, 2).reshape(b * t, c, h, w))
        return x + y.view(b, t, c, h, w).transpose(1, 2)


class Upsample(nn.Module):
    def __init__(self, dim, in_time):
        super().__init__()
        self.resample = nn.ModuleDict({
            "1": nn.Conv2d(dim, dim // 2, 3, padding=1)})
        self.time_conv = (CausalConv(dim, 2 * dim, (3, 1, 1)) if in_time
                          else None)

    def forward(self, x, state):
        if self.time_conv is not None:
            if self in state:
                x = self.time_conv(x, state)
                b, c, t, h, w = x.shape
                x = x.view(b, 2, c // 2, t, h, w)
                x = torch.stack((x[:, 0], x[:, 1]), 3).flatten(2, 3)
            state[self] = True # the first latent is one frame
        b, c, t, h, w = x.shape
        y = x.transpose(1, 2).reshape(b * t, c, h, w)
        y = F.interpolate(y.float(), scale_factor=2.0,
                          mode="nearest-exact").type_as(y)
        y = self.resample["1"](y)
        return y.view(b, t, *y.shape[1:]).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self, base=96, channels=16):
        super().__init__()
        c, upsamples = [4 * base, 4 * base, 2 * base, base], []
        for stage, (a, b) in enumerate(((c[0], c[0]), (c[1] // 2, c[1]),
                                        (c[1] // 2, c[2]), (c[2] // 2, c[3]))):
            upsamples += [Residual(a, b), Residual(b, b), Residual(b, b)]
            if stage < 3:
                upsamples.append(Upsample(b, in_time=stage < 2))
        self.conv2 = nn.Conv3d(channels, channels, 1)
        self.decoder = nn.Module()
        self.decoder.conv1 = CausalConv(channels, c[0], 3)
        self.decoder.middle = nn.ModuleList([
            Residual(c[0], c[0]), FrameAttention(c[0]), Residual(c[0], c[0])])
        self.decoder.upsamples = nn.ModuleList(upsamples)
        self.decoder.head = nn.ModuleDict({
            "0": PixelNorm(c[3], False), "2": CausalConv(c[3], 3, 3)})

    def forward(self, z):
        """z [1, 16, latents, H, W], with mean and deviation of the model."""
        z, state, frames, d = self.conv2(z), {}, [], self.decoder
        for i in range(z.shape[2]):
            x = d.conv1(z[:, :, i:i + 1], state)
            for part in (*d.middle, *d.upsamples):
                x = part(x, state)
            x = d.head["2"](F.silu(d.head["0"](x)), state)
            frames.append(x)
        return torch.cat(frames, 2).float().clamp(-1, 1)


# ------------------------------------------------------------- text encoder


class TextNorm(RMSNorm):
    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y.type_as(self.weight) * self.weight


class TextBlock(nn.Module):
    def __init__(self, dim, head_dim, heads, ffn_dim):
        super().__init__()
        inner, self.heads = head_dim * heads, heads
        self.norm1, self.norm2 = TextNorm(dim), TextNorm(dim)
        self.attn = nn.Module()
        for name in "qkv":
            setattr(self.attn, name, nn.Linear(dim, inner, bias=False))
        self.attn.o = nn.Linear(inner, dim, bias=False)
        self.pos_embedding = nn.Module()
        self.pos_embedding.embedding = nn.Embedding(32, heads)
        self.ffn = nn.Module()
        self.ffn.gate = nn.Sequential(nn.Linear(dim, ffn_dim, bias=False))
        self.ffn.fc1 = nn.Linear(dim, ffn_dim, bias=False)
        self.ffn.fc2 = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x, buckets, mask):
        y = self.norm1(x)
        q, k, v = (getattr(self.attn, n)(y).unflatten(2, (self.heads, -1))
                   for n in "qkv")
        bias = self.pos_embedding.embedding(buckets).permute(2, 0, 1)[None]
        bias = bias.expand(x.shape[0], -1, -1, -1).clone().masked_fill_(
            mask[:, None, None] == 0, torch.finfo(x.dtype).min)
        scores = torch.einsum("binc,bjnc->bnij", q, k) + bias
        scores = F.softmax(scores.float(), -1).type_as(scores)
        x = x + self.attn.o(torch.einsum("bnij,bjnc->binc", scores,
                                         v).flatten(2))
        y, ffn = self.norm2(x), self.ffn
        return x + ffn.fc2(ffn.fc1(y) * F.gelu(ffn.gate(y),
                                               approximate="tanh"))


def relative_buckets(n, device):
    i = torch.arange(n, device=device)
    r = i[None] - i[:, None]
    a = r.abs()
    far = 8 + (torch.log(a.float().clamp(min=1) / 8) / math.log(16) *
               8).long()
    return 16 * (r > 0) + torch.where(a < 8, a, far.clamp(max=15))


class TextEncoder(nn.Module):
    def __init__(self, vocabulary=256384, dim=4096, head_dim=64, heads=64,
                 ffn_dim=10240, layers=24):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(TextBlock(dim, head_dim, heads, ffn_dim)
                                    for _ in range(layers))
        self.norm = TextNorm(dim)

    def forward(self, ids, mask):
        x = self.token_embedding(ids)
        buckets = relative_buckets(ids.shape[1], ids.device)
        for block in self.blocks:
            x = block(x, buckets, mask)
        return self.norm(x)
