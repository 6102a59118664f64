#!/usr/bin/env python3
"""Make a whole causal clip: a small model in the diffusers layout, given noise,
and everything that a correct engine computes from them.

SPDX-License-Identifier: BSD-2-Clause

Usage: clip.py [FOLDER]     (default: ../fixtures/clip)

model/ is what WanPipeline.save_pretrained() writes (random weights), with
spiece.model and a recipe.json. inputs.safetensors and reference.safetensors
are inputs and outputs of `causvid trace`:
  token_ids [n] (int64), text_embeds [n, d] (what they encode to; trace takes
  the ids when both are there), noise [9, 16, h, w], renoise.<block>.<step>;
  text_embeds, flow.<block>.<step>, x0.<block>.<step>, latents [9, 16, h, w],
  frames [33, H, W, 3] in 0..1.
reference-window9.safetensors has what differs when attention sees all of the
9 latent frames instead of 6 (the recipe's window).

Diffusers has no causal inference, so it is applied here on top of its modules:
3 latent frames a block, keys and values of earlier blocks kept after RoPE,
each block denoised by the CausVid steps and then passed once more at t = 0 to
write its final keys and values (CausVid causvid/models/wan/causal_inference.py
and causal_model.py). Two checks tie it to plain diffusers code:
- the first block, with nothing cached, equals WanTransformer3DModel.forward();
- each block equals one forward() over all blocks, the earlier ones clean at
  t = 0 (diffusers takes a timestep for each token) under a blockwise causal
  mask: the form in which such models are trained.
"""
import json
import os
import shutil
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import torch
from diffusers import (AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline,
                       WanTransformer3DModel)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from safetensors.torch import save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from dit import make_alive, pad_text
from sampling import CausVid

WIDTH, HEIGHT = 48, 16
BLOCKS, BLOCK_FRAMES, CHANNELS = 3, 3, 16
STEPS, SHIFT = [1000, 757, 522], 8.0
PROMPT = "a red circle moves right on a blue background"

# ------------------------------------------------------------------ the model


def strip_paths(path):
    """Takes the folder it was trained in out of a spiece.model."""
    with open(path, "rb") as source:
        model = sentencepiece_model_pb2.ModelProto.FromString(source.read())
    model.trainer_spec.ClearField("model_prefix")
    with open(path, "wb") as out:
        out.write(model.SerializeToString())


def make_tokenizer(folder):
    os.makedirs(folder, exist_ok=True)
    colours = ["red", "blue", "green", "yellow", "white", "black"]
    shapes = ["circle", "square", "triangle", "star"]
    motions = ["moves left", "moves right", "moves up", "moves down",
               "stays still", "grows", "shrinks", "turns"]
    lines = [f"a {c} {s} {m} on a {b} background" for c in colours
             for s in shapes for m in motions for b in colours if b != c]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_type="unigram", vocab_size=72,
        model_prefix=os.path.join(folder, "spiece"), pad_id=0, eos_id=1,
        bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="</s>",
        bos_piece="<s>", unk_piece="<unk>", hard_vocab_limit=False,
        normalization_rule_name="identity", num_threads=1,
        minloglevel=2)
    os.remove(os.path.join(folder, "spiece.vocab"))
    strip_paths(os.path.join(folder, "spiece.model"))
    return os.path.join(folder, "spiece.model")


def make_text_encoder(vocab):
    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=vocab, d_model=24, d_kv=8, d_ff=40, num_layers=2,
        num_heads=3, relative_attention_num_buckets=32,
        relative_attention_max_distance=128, feed_forward_proj="gated-gelu",
        dropout_rate=0.0)).eval()
    make_alive(encoder)
    encoder.shared.weight.data.normal_()
    return encoder


def make_vae():
    vae = AutoencoderKLWan(base_dim=2, z_dim=CHANNELS,
                           dim_mult=[1, 2, 4, 4], num_res_blocks=1,
                           temperal_downsample=[False, True, True]).eval()
    make_alive(vae, gain=1.3)
    # Frames that are neither flat nor clipped everywhere.
    vae.decoder.conv_out.weight.data *= 0.4
    vae.decoder.conv_out.bias.data *= 0.5
    return vae


def make_transformer():
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=CHANNELS,
        out_channels=CHANNELS, text_dim=24, freq_dim=32, ffn_dim=56,
        num_layers=2).eval()
    make_alive(transformer)
    return transformer


# ------------------------------------------------------------ causal inference


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
                                even * sin + odd * cos], -1).flatten(-2)

        q = rotate(heads(attn.norm_q(attn.to_q(hidden_states))))
        k = rotate(heads(attn.norm_k(attn.to_k(hidden_states))))
        v = heads(attn.to_v(hidden_states))
        self.fresh = (k, v)
        k = torch.cat([past[0] for past in self.past] + [k], 1)
        v = torch.cat([past[1] for past in self.past] + [v], 1)
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return attn.to_out[0](out.transpose(1, 2).flatten(2, 3))


class CausalModel:
    """A WanTransformer3DModel run block by block; `window` blocks are seen,
    the current one included."""

    def __init__(self, model, text, window):
        self.model, self.text, self.window = model, text, window
        self.cache = [CachedAttention() for _ in model.blocks]

    def __call__(self, x, t, block, keep=False):
        """x: [frames, channels, h, w] of the block; keep: leave its keys and
        values in the cache for later blocks."""
        model, first = self.model, block * BLOCK_FRAMES
        saved = [layer.attn1.processor for layer in model.blocks]
        for layer, cache in zip(model.blocks, self.cache):
            layer.attn1.processor = cache
        rope_forward = model.rope.forward

        def shifted_rope(hidden):
            # Positions are counted from the start of the clip.
            b, c, f, h, w = hidden.shape
            tables = rope_forward(torch.zeros(b, c, first + f, h, w))
            tokens = f * (h // 2) * (w // 2)
            return tuple(table[:, -tokens:] for table in tables)

        model.rope.forward = shifted_rope
        try:
            flow = model(hidden_states=x.transpose(0, 1)[None],
                         timestep=torch.tensor([float(t)]),
                         encoder_hidden_states=self.text,
                         return_dict=False)[0][0].transpose(0, 1)
        finally:
            model.rope.forward = rope_forward
            for layer, processor in zip(model.blocks, saved):
                layer.attn1.processor = processor
        if keep:
            for cache in self.cache:
                cache.past.append(cache.fresh)
                cache.past = cache.past[max(0, len(cache.past) -
                                            (self.window - 1)):]
        return flow.contiguous()


class MaskedAttention(WanAttnProcessor):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None,
                 attention_mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states,
                                self.mask, rotary_emb)


def masked_forward(model, text, latents, x, t, window):
    """The flow of the last block by one plain forward over all of them:
    `latents` are the earlier blocks' clean frames, x is the last block."""
    frames = torch.cat([latents, x])
    tokens = (x.shape[2] // 2) * (x.shape[3] // 2) * BLOCK_FRAMES
    blocks = len(frames) // BLOCK_FRAMES
    number = torch.arange(blocks).repeat_interleave(tokens)
    distance = number[:, None] - number[None]
    mask = ((distance >= 0) & (distance < window))[None, None]
    timestep = torch.where(number == blocks - 1, float(t), 0.0)[None]
    saved = [layer.attn1.processor for layer in model.blocks]
    for layer in model.blocks:
        layer.attn1.processor = MaskedAttention(mask)
    flow = model(hidden_states=frames.transpose(0, 1)[None],
                 timestep=timestep, encoder_hidden_states=text,
                 return_dict=False)[0][0].transpose(0, 1)
    for layer, processor in zip(model.blocks, saved):
        layer.attn1.processor = processor
    return flow[-BLOCK_FRAMES:]


def error(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def generate(model, text, inputs, window):
    """All blocks; returns the trace outputs."""
    out, latents = {}, []
    scheduler = CausVid(SHIFT)
    causal = CausalModel(model, text, window)
    for block in range(BLOCKS):
        x = inputs["noise"][block * BLOCK_FRAMES:][:BLOCK_FRAMES]
        for step, t in enumerate(STEPS):
            flow = causal(x, t, block)
            whole = masked_forward(model, text, torch.cat(latents)
                                   if latents else x[:0], x, t, window)
            if error(flow, whole) > 1e-5:
                raise SystemExit(f"block {block} step {step}: cached and "
                                 f"masked forward differ: "
                                 f"{error(flow, whole):.2e}")
            if block == 0:
                plain = model(hidden_states=x.transpose(0, 1)[None],
                              timestep=torch.tensor([float(t)]),
                              encoder_hidden_states=text,
                              return_dict=False)[0][0].transpose(0, 1)
                if error(flow, plain) > 1e-5:
                    raise SystemExit("the first block differs from the plain "
                                     "forward")
            x0 = scheduler.x0(x, flow, t)
            out[f"flow.{block}.{step}"] = flow
            out[f"x0.{block}.{step}"] = x0
            if step + 1 < len(STEPS):
                x = scheduler.add_noise(
                    x0, inputs[f"renoise.{block}.{step + 1}"],
                    STEPS[step + 1])
        causal(x0, 0, block, keep=True)
        latents.append(x0)
    out["latents"] = torch.cat(latents)
    return out


@torch.no_grad()
def decode(vae, latents):
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    z = latents.transpose(0, 1)[None] * std + mean
    video = vae.decode(z, return_dict=False)[0]
    return (video[0].permute(1, 2, 3, 0) / 2 + 0.5).contiguous()


def main(root):
    torch.manual_seed(6)
    folder = os.path.join(root, "model")
    shutil.rmtree(folder, ignore_errors=True)
    spiece = make_tokenizer(os.path.join(folder, "tokenizer"))
    words = sentencepiece.SentencePieceProcessor(model_file=spiece)
    encoder = make_text_encoder(words.get_piece_size())
    vae, model = make_vae(), make_transformer()
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=SHIFT)
    vocab = [(words.id_to_piece(i), words.get_score(i))
             for i in range(words.get_piece_size())]
    WanPipeline(tokenizer=T5Tokenizer(vocab=vocab, extra_ids=0),
                text_encoder=encoder, vae=vae, transformer=model,
                scheduler=scheduler).save_pretrained(folder)
    with open(os.path.join(folder, "recipe.json"), "w") as f:
        json.dump({"variant": "causal", "width": WIDTH, "height": HEIGHT,
                   "rate": 16, "frames": 4 * (BLOCKS * BLOCK_FRAMES - 1) + 1,
                   "frames_per_block": BLOCK_FRAMES, "window": 6,
                   "sampler": "causvid", "timesteps": STEPS, "warp": False,
                   "shift": SHIFT, "guidance": 1.0}, f, indent=2)
        f.write("\n")

    print("pieces:", " ".join(piece for piece, _ in vocab))
    ids = torch.tensor(words.encode(PROMPT) + [words.eos_id()])
    with torch.no_grad():
        embeds = encoder(input_ids=ids[None]).last_hidden_state[0]
    shape = (BLOCK_FRAMES, CHANNELS, HEIGHT // 8, WIDTH // 8)
    inputs = {"token_ids": ids, "text_embeds": embeds.contiguous(),
              "noise": torch.randn(BLOCKS * shape[0], *shape[1:])}
    for block in range(BLOCKS):
        for step in range(1, len(STEPS)):
            inputs[f"renoise.{block}.{step}"] = torch.randn(shape)
    text = pad_text(embeds)
    reference = generate(model, text, inputs, window=2)
    whole = generate(model, text, inputs, window=3)
    difference = error(whole["latents"], reference["latents"])
    frames = decode(vae, reference["latents"])
    clipped = float(((frames == 0) | (frames == 1)).float().mean())
    print(f"windows of 6 and 9 frames differ by {difference:.2e}; latents "
          f"deviate by {reference['latents'].std():.2f}, frames by "
          f"{frames.std():.2f}, {100 * clipped:.0f} % clipped")
    save_file(inputs, os.path.join(root, "inputs.safetensors"))
    save_file({**reference, "frames": frames,
               "text_embeds": inputs["text_embeds"]},
              os.path.join(root, "reference.safetensors"))
    save_file({k: v for k, v in whole.items() if k == "latents" or ".2." in k},
              os.path.join(root, "reference-window9.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) > 1 else
         os.path.join(here, "..", "fixtures", "clip"))
