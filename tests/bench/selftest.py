"""standin.py against diffusers and transformers: the same weights and inputs
must give the same numbers, in float32 on the CPU.

SPDX-License-Identifier: BSD-2-Clause
"""
import re

import torch

import standin

BAR = 1e-5 # relative error


def error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def fill(module):
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5)
            else:
                p.uniform_(0.5, 1.5)
    return module.eval()


def renamed(state, rules):
    out = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


TRANSFORMER = [
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^proj_out", "head.head"), (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table$", "modulation"), (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."), (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0", ".o"),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"), (r"\.ffn\.net\.2", ".ffn.2"),
]
VAE = [
    (r"^post_quant_conv", "conv2"), (r"conv_in", "conv1"),
    (r"norm_out", "head.0"), (r"conv_out", "head.2"),
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"up_blocks\.(\d)\.resnets\.(\d)",
     lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}"),
    (r"up_blocks\.(\d)\.upsamplers\.0",
     lambda m: f"upsamples.{4 * int(m[1]) + 3}"),
    (r"(middle|upsamples)\.(\d+)\.norm1", r"\1.\2.residual.0"),
    (r"(middle|upsamples)\.(\d+)\.norm2", r"\1.\2.residual.3"),
    (r"(middle|upsamples)\.(\d+)\.conv1", r"\1.\2.residual.2"),
    (r"(middle|upsamples)\.(\d+)\.conv2", r"\1.\2.residual.6"),
    (r"conv_shortcut", "shortcut"),
]
TEXT = [
    (r"^shared", "token_embedding"), (r"^encoder\.block", "blocks"),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"layer\.0\.layer_norm", "norm1"), (r"layer\.1\.layer_norm", "norm2"),
    (r"layer\.0\.SelfAttention\.relative_attention_bias",
     "pos_embedding.embedding"),
    (r"layer\.0\.SelfAttention", "attn"),
    (r"layer\.1\.DenseReluDense\.wi_0", "ffn.gate.0"),
    (r"layer\.1\.DenseReluDense\.wi_1", "ffn.fc1"),
    (r"layer\.1\.DenseReluDense\.wo", "ffn.fc2"),
]


def transformer(layers, causal):
    from diffusers import WanTransformer3DModel
    theirs = fill(WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, in_channels=16,
        out_channels=16, text_dim=48, freq_dim=64, ffn_dim=160,
        num_layers=layers))
    ours = standin.Transformer(256, 160, 2, layers, causal, text_dim=48,
                               freq_dim=64)
    ours.load_state_dict(renamed(theirs.state_dict(), TRANSFORMER))
    return theirs, ours.eval()


def check_transformer():
    theirs, ours = transformer(3, False)
    x, text = torch.randn(1, 16, 3, 6, 10), torch.randn(1, 512, 48)
    want = theirs(x, torch.tensor([757.0]), text).sample
    got = ours(x, torch.full((1, 1), 757.0), text,
               standin.rotations(3, 3, 5))
    yield "transformer", error(got, want)
    got = ours(x, torch.full((1, 1), 757.0), text,
               standin.rotations(3, 3, 5, double=False))
    yield "transformer, float32 rotations", error(got, want)


def check_causal():
    """With one layer, what earlier tokens bring are their keys and values, and
    these do not depend on later tokens: the last block of a clip computed at
    once must be that of one computed block by block."""
    theirs, ours = transformer(1, True)
    x, text = torch.randn(1, 16, 6, 6, 10), torch.randn(1, 512, 48)
    want = theirs(x, torch.tensor([522.0]), text).sample
    cache = ours.new_cache(6 * 15, torch.float32)
    t = torch.full((1, 3), 522.0)
    for block in range(2):
        got = ours(x[:, :, 3 * block:3 * block + 3], t, text,
                   standin.rotations(3, 3, 5, first=3 * block), cache,
                   block * 45)
    yield "causal transformer with a cache", error(got, want[:, :, 3:])


def check_vae():
    from diffusers import AutoencoderKLWan
    theirs = fill(AutoencoderKLWan(base_dim=8, z_dim=16))
    # Frames are clamped: most values must lie inside.
    unclamped = []
    hook = theirs.decoder.conv_out.register_forward_hook(
        lambda _, __, y: unclamped.append(y))
    theirs.decoder.conv_out.bias.mul_(0.1)
    theirs.decode(torch.randn(1, 16, 2, 4, 6))
    hook.remove()
    theirs.decoder.conv_out.weight.mul_(0.4 / torch.cat(unclamped, 2).std())
    ours = standin.Decoder(8)
    state = {k: v for k, v in theirs.state_dict().items()
             if k.startswith(("decoder.", "post_quant_conv"))}
    ours.load_state_dict(renamed(state, VAE))
    z = torch.randn(1, 16, 4, 4, 6)
    want = theirs.decode(z, return_dict=False)[0]
    assert float((want.abs() == 1).float().mean()) < 0.5, "clamped frames"
    yield "VAE decoder", error(ours.eval()(z), want)


def check_text():
    from transformers import UMT5Config, UMT5EncoderModel
    theirs = fill(UMT5EncoderModel(UMT5Config(
        vocab_size=300, d_model=48, d_kv=8, num_heads=6, d_ff=80,
        num_layers=3, feed_forward_proj="gated-gelu", dropout_rate=0.0)))
    ours = standin.TextEncoder(300, 48, 8, 6, 80, 3)
    state = {k: v for k, v in theirs.state_dict().items()
             if k != "encoder.embed_tokens.weight"}
    ours.load_state_dict(renamed(state, TEXT))
    ids = torch.randint(0, 300, (1, 200))
    mask = (torch.arange(200) < 150).long()[None]
    want = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    yield "text encoder", error(ours.eval()(ids, mask)[:, :150],
                                want[:, :150])


@torch.no_grad()
def run():
    torch.manual_seed(1)
    failed = 0
    for check in (check_transformer, check_causal, check_vae, check_text):
        for what, e in check():
            bar = 1e-4 if "float32 rotations" in what else BAR
            failed += not e <= bar
            print(f"{'ok' if e <= bar else 'not ok'} - {what}: {e:.1e}")
    return 1 if failed else 0
