"""What PyTorch makes of a model and inputs: transformers' UMT5, diffusers' Wan
transformer and VAE, as their users run them.

SPDX-License-Identifier: BSD-2-Clause

Diffusers has no causal inference: it is applied on top of its modules, as in
tests/model/make/clip.py, which also checks it against plain forwards.
"""
import os
import sys
import time

import numpy as np
import torch
from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler,
                       WanTransformer3DModel, logging)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from transformers import UMT5EncoderModel
from transformers import logging as transformers_logging

from models import RECIPES, TEXT_ROWS

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "model", "make"))
from sampling import CausVid

logging.set_verbosity_error()
logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


class CachedAttention(WanAttnProcessor):
    """Self-attention over `past` keys and values and the block's own, which
    are left in `fresh`; both after RoPE. As WanAttnProcessor otherwise."""

    def __init__(self):
        super().__init__()
        self.past, self.fresh = [], None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None,
                 attention_mask=None, rotary_emb=None):
        def heads(t):
            return t.unflatten(2, (attn.heads, -1))

        def rotate(t):
            even, odd = t.unflatten(-1, (-1, 2)).unbind(-1)
            cos = rotary_emb[0][..., 0::2]
            sin = rotary_emb[1][..., 1::2]
            return torch.stack([even * cos - odd * sin,
                                even * sin + odd * cos],
                               -1).flatten(-2).type_as(t)

        q = rotate(heads(attn.norm_q(attn.to_q(hidden_states))))
        k = rotate(heads(attn.norm_k(attn.to_k(hidden_states))))
        v = heads(attn.to_v(hidden_states))
        self.fresh = (k, v)
        k = torch.cat([past[0] for past in self.past] + [k], 1)
        v = torch.cat([past[1] for past in self.past] + [v], 1)
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return attn.to_out[0](out.transpose(1, 2).flatten(2, 3))


class Reference:
    """The model in `folder` in one precision on one device. Tensors come and
    go as float32 on the CPU, as in a trace; `seconds` adds up what each part
    took."""

    def __init__(self, folder, name, dtype, device):
        self.recipe, self.name = RECIPES[name], name
        self.dtype, self.device = dtype, device
        self.seconds = {}

        def load(kind, part, **kwargs):
            return kind.from_pretrained(os.path.join(folder, part),
                                        **kwargs).eval().to(device)

        began = time.monotonic()
        self.encoder = load(UMT5EncoderModel, "text_encoder", dtype=dtype)
        self.transformer = load(WanTransformer3DModel, "transformer",
                                torch_dtype=dtype)
        self.vae = load(AutoencoderKLWan, "vae", torch_dtype=dtype)
        self.count("load", began)

    def count(self, what, began):
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[what] = (self.seconds.get(what, 0) + time.monotonic() -
                              began)

    @torch.no_grad()
    def text(self, ids):
        began, n = time.monotonic(), len(ids)
        padded = torch.zeros(1, TEXT_ROWS, dtype=torch.long)
        padded[0, :n] = ids
        mask = (torch.arange(TEXT_ROWS) < n).long()[None]
        out = self.encoder(input_ids=padded.to(self.device),
                           attention_mask=mask.to(self.device))
        self.count("text encoder", began)
        return out.last_hidden_state[0, :n].float().cpu()

    def pad(self, embeds):
        """Zero rows up to 512, as Wan and CausVid feed them."""
        padded = torch.zeros(1, TEXT_ROWS, embeds.shape[1])
        padded[0, :len(embeds)] = embeds
        return padded.to(self.device, self.dtype)

    def forward(self, x, t, text):
        """x: [frames, channels, h, w] on the device, float32."""
        flow = self.transformer(
            hidden_states=x.transpose(0, 1)[None].to(self.dtype),
            timestep=torch.tensor([float(t)], device=self.device),
            encoder_hidden_states=text, return_dict=False)[0]
        return flow[0].transpose(0, 1).float().contiguous()

    @torch.no_grad()
    def first_flow(self, noise, embeds):
        """The transformer alone: the first step of the first block."""
        began = time.monotonic()
        if self.name == "causal":
            x = noise[:self.recipe["frames_per_block"]]
            t = self.recipe["timesteps"][0]
        else:
            x, t = noise, self.scheduler().timesteps[0]
        flow = self.forward(x.to(self.device), t, self.pad(embeds))
        self.count("one forward", began)
        return flow.cpu()

    def scheduler(self):
        steps = self.recipe["steps"]
        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.recipe["shift"])
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1])
        return scheduler

    @torch.no_grad()
    def clip(self, inputs, embeds, window):
        """Latents of a whole clip."""
        began, text = time.monotonic(), self.pad(embeds)
        if self.name == "causal":
            latents = self.causal(inputs, text, window)
        else:
            scheduler = self.scheduler()
            latents = inputs["noise"].to(self.device)
            for t in scheduler.timesteps:
                flow = self.forward(latents, t, text)
                latents = scheduler.step(flow, t, latents).prev_sample
        self.count("clip", began)
        return latents.float().cpu()

    def causal(self, inputs, text, window):
        size, steps = (self.recipe["frames_per_block"],
                       self.recipe["timesteps"])
        scheduler, latents = CausVid(self.recipe["shift"]), []
        layers, rope = self.transformer.blocks, self.transformer.rope
        caches = [CachedAttention() for _ in layers]
        saved = [layer.attn1.processor for layer in layers]
        rope_forward = rope.forward
        for layer, cache in zip(layers, caches):
            layer.attn1.processor = cache
        try:
            for block in range(len(inputs["noise"]) // size):
                first = block * size

                def shifted(hidden, first=first):
                    # Positions are counted from the start of the clip.
                    b, c, f, h, w = hidden.shape
                    tables = rope_forward(torch.empty(
                        b, c, first + f, h, w, device="meta"))
                    tokens = f * (h // 2) * (w // 2)
                    return tuple(table[:, -tokens:] for table in tables)

                rope.forward = shifted
                x = inputs["noise"][first:first + size].to(self.device)
                for step, t in enumerate(steps):
                    x0 = scheduler.x0(x, self.forward(x, t, text), t)
                    if step + 1 < len(steps):
                        x = scheduler.add_noise(
                            x0, inputs[f"renoise.{block}.{step + 1}"]
                            .to(self.device), steps[step + 1])
                # Once more, clean, for the keys and values of later blocks.
                self.forward(x0, 0, text)
                for cache in caches:
                    cache.past.append(cache.fresh)
                    kept = window // size - 1
                    cache.past = cache.past[-kept:] if kept else []
                latents.append(x0)
        finally:
            rope.forward = rope_forward
            for layer, processor in zip(layers, saved):
                layer.attn1.processor = processor
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents):
        """Frames [N, H, W, 3] in 0..1."""
        began, config = time.monotonic(), self.vae.config
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
        z = latents.transpose(0, 1)[None] * std + mean
        video = self.vae.decode(z.to(self.device, self.dtype),
                                return_dict=False)[0]
        self.count("VAE", began)
        return (video[0].permute(1, 2, 3, 0).float() / 2 +
                0.5).clamp(0, 1).cpu().contiguous()
