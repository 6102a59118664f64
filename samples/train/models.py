"""The three networks of the sample model, and fast forms of their forward
passes for training.

The parameters live in diffusers' WanTransformer3DModel and AutoencoderKLWan
and in transformers' UMT5EncoderModel. The functions here compute what those
classes compute, over whole clips at once and, for the transformer, with the
block-causal attention and the cache that CausVid adds. check_models.py holds
them beside the classes.
"""
import functools
import math

import torch
import torch._dynamo
import torch.nn.functional as F

BLOCK = 3            # latent frames in a block
WINDOW = 12          # latent frames that a block sees, its own included
GRID_H, GRID_W = 6, 10
FRAME_TOKENS = GRID_H * GRID_W
BLOCK_TOKENS = BLOCK * FRAME_TOKENS
HEAD = 128
TEXT_ROWS = 512      # rows that Wan's cross attention sees
TOKENS = 47          # of a prompt in training, the end of text included

VAE_CONFIG = dict(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4],
                  num_res_blocks=1, attn_scales=[],
                  temperal_downsample=[False, True, True], dropout=0.0)
DIT_CONFIG = dict(patch_size=(1, 2, 2), num_attention_heads=2,
                  attention_head_dim=HEAD, in_channels=16, out_channels=16,
                  text_dim=128, freq_dim=256, ffn_dim=1024, num_layers=6,
                  cross_attn_norm=True, qk_norm="rms_norm_across_heads",
                  eps=1e-6, rope_max_seq_len=1024)
TEXT_CONFIG = dict(vocab_size=700, d_model=128, d_kv=64, d_ff=384,
                   num_layers=3, num_heads=4,
                   relative_attention_num_buckets=32,
                   relative_attention_max_distance=128, dropout_rate=0.0,
                   feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-6,
                   pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
                   is_encoder_decoder=False, use_cache=False)


def make_vae():
    from diffusers import AutoencoderKLWan
    return AutoencoderKLWan(**VAE_CONFIG)


def make_dit():
    from diffusers import WanTransformer3DModel
    dit = WanTransformer3DModel(**DIT_CONFIG)
    depth = DIT_CONFIG["num_layers"]
    for name, p in dit.named_parameters():
        if p.dim() == 2 and ".blocks." in "." + name:
            torch.nn.init.xavier_uniform_(p)
            if "to_out" in name or "ffn.net.2" in name:
                p.data.mul_(1 / math.sqrt(2 * depth))
        elif name.startswith("condition_embedder") and p.dim() == 2:
            torch.nn.init.normal_(p, std=0.02 if "time" in name else 0.05)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(p)
    for block in dit.blocks:
        with torch.no_grad():       # open gates: a short run cannot wait
            block.scale_shift_table[:, 2] = 0.5
            block.scale_shift_table[:, 5] = 0.5
    torch.nn.init.zeros_(dit.proj_out.weight)
    return dit


def make_text(vocab_size):
    from transformers import UMT5Config, UMT5EncoderModel
    return UMT5EncoderModel(UMT5Config(**{**TEXT_CONFIG,
                                          "vocab_size": vocab_size}))


# ------------------------------------------------------------------- VAE
# Frames are the batch: x is [clips * frames, channels, height, width] in
# channels_last, so that a causal convolution over time is one 2-D or 3-D
# convolution without copies of the layout.

CONV = {"mode": "3d"}        # "3d" or "fold"; train_vae.py measures both


def norm_silu(x, gamma):
    n = F.normalize(x.float(), dim=1) * (x.shape[1] ** 0.5)
    n = n * gamma.reshape(1, -1, 1, 1)
    return F.silu(n).to(x.dtype)


def norm_only(x, gamma):
    n = F.normalize(x.float(), dim=1) * (x.shape[1] ** 0.5)
    return (n * gamma.reshape(1, -1, 1, 1)).to(x.dtype)


def compile_small():
    """Fuses the norms on a GPU; a CPU keeps them as they are."""
    global norm_silu
    if torch.cuda.is_available():
        torch._dynamo.config.suppress_errors = True
        torch._dynamo.config.recompile_limit = 64
        norm_silu = torch.compile(norm_silu, dynamic=True)


def causal_conv(x, frames, conv):
    """A 3-D convolution that sees two frames back, zeros before the clip."""
    w, b = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    if w.shape[2] == 1:
        return F.conv2d(x, w[:, :, 0], b)
    n, c, h, wd = x.shape
    side = w.shape[-1] // 2
    v = x.permute(0, 2, 3, 1).reshape(n // frames, frames, h, wd, c)
    past = v.new_zeros(n // frames, 2, h, wd, c)
    if CONV["mode"] == "3d":
        v = torch.cat([past, v], 1).permute(0, 4, 1, 2, 3)
        y = F.conv3d(v, w, b, padding=(0, side, side))
        y = y.permute(0, 2, 3, 4, 1).reshape(n, h, wd, -1)
    else:
        v = torch.cat([past, v], 1)
        v = torch.cat([v[:, :-2], v[:, 1:-1], v[:, 2:]], -1)
        v = v.reshape(n, h, wd, 3 * c).permute(0, 3, 1, 2)
        flat = w.permute(0, 2, 1, 3, 4).reshape(w.shape[0], 3 * c,
                                                *w.shape[3:])
        y = F.conv2d(v, flat, b, padding=side).permute(0, 2, 3, 1)
    return y.permute(0, 3, 1, 2)


def conv2d(x, conv, **kw):
    return F.conv2d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), **kw)


def res_block(x, frames, block):
    h = x
    if hasattr(block.conv_shortcut, "weight"):
        h = causal_conv(x, frames, block.conv_shortcut)
    x = causal_conv(norm_silu(x, block.norm1.gamma), frames, block.conv1)
    x = causal_conv(norm_silu(x, block.norm2.gamma), frames, block.conv2)
    return x + h


def mid_block(x, frames, mid):
    x = res_block(x, frames, mid.resnets[0])
    attn = mid.attentions[0]
    n, c, h, w = x.shape
    y = conv2d(norm_only(x, attn.norm.gamma), attn.to_qkv)
    q, k, v = y.flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, -1)
    y = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
    x = x + conv2d(y.reshape(n, c, h, w), attn.proj)
    return res_block(x, frames, mid.resnets[1])


def frames_split(x, frames, start):
    """[clips * frames, ...] -> clip axis apart, from frame `start` on."""
    v = x.unflatten(0, (-1, frames))
    return v[:, start:]


def down(x, frames, layer):
    x = conv2d(F.pad(x, (0, 1, 0, 1)), layer.resample[1], stride=2)
    if layer.mode != "downsample3d":
        return x, frames
    v = x.unflatten(0, (-1, frames))
    w = layer.time_conv.weight.to(x.dtype)
    last = (frames - 1) // 2
    kept = v[:, :1]
    if last:
        taps = torch.cat([v[:, 0:frames - 2:2], v[:, 1:frames - 1:2],
                          v[:, 2:frames:2]], 2).flatten(0, 1)
        flat = w.permute(0, 2, 1, 3, 4).reshape(w.shape[0], -1, 1, 1)
        y = F.conv2d(taps, flat, layer.time_conv.bias.to(x.dtype))
        kept = torch.cat([kept, y.unflatten(0, (-1, last))], 1)
    y = kept.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return y, last + 1


def up(x, frames, layer):
    if layer.mode == "upsample3d":
        v = x.unflatten(0, (-1, frames))
        first, rest = v[:, :1], v[:, 1:]
        if frames > 1:
            n, t, c, h, w = rest.shape
            y = causal_conv(rest.flatten(0, 1).contiguous(
                memory_format=torch.channels_last), t, layer.time_conv)
            y = y.reshape(n, t, 2, c, h, w).reshape(n, 2 * t, c, h, w)
            first = torch.cat([first, y], 1)
        x = first.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        frames = 2 * frames - 1
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return conv2d(x, layer.resample[1], padding=1), frames


def vae_encode(vae, clip, dtype=torch.float32):
    """[B, 3, T, H, W] in -1..1 -> mean and log variance [B, 16, t, h, w]."""
    b, _, frames, _, _ = clip.shape
    x = clip.transpose(1, 2).flatten(0, 1).to(dtype).contiguous(
        memory_format=torch.channels_last)
    e = vae.encoder
    x = causal_conv(x, frames, e.conv_in)
    for layer in e.down_blocks:
        if hasattr(layer, "resample"):
            x, frames = down(x, frames, layer)
        else:
            x = res_block(x, frames, layer)
    x = mid_block(x, frames, e.mid_block)
    x = causal_conv(norm_silu(x, e.norm_out.gamma), frames, e.conv_out)
    x = causal_conv(x, frames, vae.quant_conv).float()
    return x.unflatten(0, (b, frames)).transpose(1, 2).chunk(2, 1)


def vae_decode(vae, z, dtype=torch.float32):
    """[B, 16, t, h, w] (not normalised) -> [B, 3, T, H, W]."""
    b, _, frames, _, _ = z.shape
    x = z.transpose(1, 2).flatten(0, 1).to(dtype).contiguous(
        memory_format=torch.channels_last)
    d = vae.decoder
    x = causal_conv(x, frames, vae.post_quant_conv)
    x = causal_conv(x, frames, d.conv_in)
    x = mid_block(x, frames, d.mid_block)
    for block in d.up_blocks:
        for layer in block.resnets:
            x = res_block(x, frames, layer)
        if block.upsamplers is not None:
            x, frames = up(x, frames, block.upsamplers[0])
    x = causal_conv(norm_silu(x, d.norm_out.gamma), frames, d.conv_out)
    return x.float().unflatten(0, (b, frames)).transpose(1, 2)


# ----------------------------------------------------------- transformer

@functools.lru_cache(maxsize=256)
def rope_table(first, frames, device):
    """cos and sin [frames * 60, 1, 64] for latent frames from `first` on."""
    def axis(positions, pairs):
        freq = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        return positions.double()[:, None] * freq
    t = axis(torch.arange(first, first + frames), 22)
    y = axis(torch.arange(GRID_H), 21)
    x = axis(torch.arange(GRID_W), 21)
    a = torch.cat([
        t[:, None, None].expand(frames, GRID_H, GRID_W, 22),
        y[None, :, None].expand(frames, GRID_H, GRID_W, 21),
        x[None, None].expand(frames, GRID_H, GRID_W, 21)], -1)
    a = a.reshape(frames * FRAME_TOKENS, 1, 64)
    return a.cos().float().to(device), a.sin().float().to(device)


def rotate(x, cos, sin):
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos],
                       -1).flatten(-2).to(x.dtype)


def rms(x, weight):
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (y * weight).to(x.dtype)


def sdpa(q, k, v):
    """q, k, v [batch, tokens, heads, 128]"""
    return F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    ).transpose(1, 2)


def block_attention(q, k, v, ck, cv):
    """Each block of q sees its own k, v and up to three clean blocks.

    q, k, v: [B, blocks * 180, heads, 128]; ck, cv: keys and values of the
    clean clip, same shape. Grouped by how many blocks lie behind, so that
    no mask is needed.
    """
    back = WINDOW // BLOCK - 1
    q, k, v, ck, cv = (t.unflatten(1, (-1, BLOCK_TOKENS))
                       for t in (q, k, v, ck, cv))
    n = q.shape[1]
    out = []
    for j in range(min(back, n)):
        keys = torch.cat([ck[:, :j].flatten(1, 2), k[:, j]], 1)
        values = torch.cat([cv[:, :j].flatten(1, 2), v[:, j]], 1)
        out.append(sdpa(q[:, j], keys, values).unsqueeze(1))
    if n > back:
        m = n - back
        keys = torch.cat([ck[:, i:i + m] for i in range(back)]
                         + [k[:, back:]], 2).flatten(0, 1)
        values = torch.cat([cv[:, i:i + m] for i in range(back)]
                           + [v[:, back:]], 2).flatten(0, 1)
        y = sdpa(q[:, back:].flatten(0, 1), keys, values)
        out.append(y.unflatten(0, (-1, m)))
    return torch.cat(out, 1).flatten(1, 2)


def block_forward(mode, p, x, mod, cos, sin, text_k, text_v, bias, ck, cv):
    """One transformer block.

    x: [B, tokens, D]; mod: [B, parts, 6, D], tokens split evenly over the
    parts; text_k, text_v: [B, rows, heads, 128]; bias: [B, rows].
    mode: "full" (no past), "blocks" (ck, cv: the clean clip; None: this is
    the clean clip), "cache" (ck, cv: keys and values of earlier blocks).
    In "blocks" x may hold several versions of the clips, one after another.
    Returns x and this pass's own keys and values.
    """
    (table, qw, qb, kw, kb, vw, vb, ow, ob, nq, nk, n2w, n2b,
     cqw, cqb, cow, cob, cnq, f1w, f1b, f2w, f2b) = p
    d = x.shape[-1]
    parts = mod.shape[1]
    m = (table.unsqueeze(0) + mod.float()).unsqueeze(3)   # [B,parts,6,1,D]
    shift1, scale1, gate1, shift2, scale2, gate2 = m.unbind(2)

    def modulate(x, shift, scale):
        y = F.layer_norm(x, (d,), eps=1e-6).unflatten(1, (parts, -1))
        return (y * (1 + scale) + shift).flatten(1, 2)

    def gated(y, gate):
        return (y.float().unflatten(1, (parts, -1)) * gate).flatten(1, 2)

    y = modulate(x, shift1, scale1)
    q = rms(F.linear(y, qw, qb), nq).unflatten(-1, (-1, HEAD))
    k = rms(F.linear(y, kw, kb), nk).unflatten(-1, (-1, HEAD))
    v = F.linear(y, vw, vb).unflatten(-1, (-1, HEAD))
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if mode == "full":
        y = sdpa(q, k, v)
    elif mode == "blocks":
        if ck is not None and len(ck) != len(q):
            copies = len(q) // len(ck)
            ck, cv = ck.repeat(copies, 1, 1, 1), cv.repeat(copies, 1, 1, 1)
        y = block_attention(q, k, v, k if ck is None else ck,
                            v if cv is None else cv)
    elif ck is None:
        y = sdpa(q, k, v)
    else:
        y = sdpa(q, torch.cat([ck, k], 1), torch.cat([cv, v], 1))
    x = (x + gated(F.linear(y.flatten(2), ow, ob), gate1)).to(x.dtype)

    y = F.layer_norm(x, (d,), n2w, n2b, eps=1e-6)
    cq = rms(F.linear(y, cqw, cqb), cnq).unflatten(-1, (-1, HEAD))
    score = torch.einsum("bqhd,bkhd->bhqk", cq, text_k) / math.sqrt(HEAD)
    score = score.float() + bias[:, None, None]
    y = torch.einsum("bhqk,bkhd->bqhd", score.softmax(-1).to(cq.dtype),
                     text_v)
    x = (x + F.linear(y.flatten(2), cow, cob)).to(x.dtype)

    y = modulate(x, shift2, scale2)
    y = F.gelu(F.linear(y, f1w, f1b), approximate="tanh")
    x = (x + gated(F.linear(y, f2w, f2b), gate2)).to(x.dtype)
    return x, k, v


RUN = {"block": block_forward}


def compile_block():
    """Compiles one transformer block for each shape and mode that comes
    (some 10 s each): six equal blocks are compiled once."""
    torch._dynamo.config.recompile_limit = 64
    RUN["block"] = torch.compile(block_forward, dynamic=False)


def forward_flops(tokens, keys):
    """Floating-point operations of one forward pass, with `keys` keys seen
    by a token on average. A training step takes three times as many."""
    d, ffn = DIT_CONFIG["num_attention_heads"] * HEAD, DIT_CONFIG["ffn_dim"]
    linear = 2 * (6 * d * d + 2 * d * ffn)
    return (DIT_CONFIG["num_layers"] * tokens
            * (linear + 4 * d * (keys + 48)))


def causal_keys(frames):
    """Keys seen by a token of a block-causal clip, on average."""
    n, most = frames // BLOCK, WINDOW // BLOCK
    return BLOCK_TOKENS * sum(min(i + 1, most) for i in range(n)) / n


def block_params(b):
    a, c = b.attn1, b.attn2
    return (b.scale_shift_table, a.to_q.weight, a.to_q.bias, a.to_k.weight,
            a.to_k.bias, a.to_v.weight, a.to_v.bias, a.to_out[0].weight,
            a.to_out[0].bias, a.norm_q.weight, a.norm_k.weight,
            b.norm2.weight, b.norm2.bias, c.to_q.weight, c.to_q.bias,
            c.to_out[0].weight, c.to_out[0].bias, c.norm_q.weight,
            b.ffn.net[0].proj.weight, b.ffn.net[0].proj.bias,
            b.ffn.net[2].weight, b.ffn.net[2].bias)


@functools.lru_cache(maxsize=8)
def distance_buckets(n, device):
    """The bucket of each key's distance from each query, as T5 has them."""
    half = TEXT_CONFIG["relative_attention_num_buckets"] // 2
    most = TEXT_CONFIG["relative_attention_max_distance"]
    d = torch.arange(n)[None] - torch.arange(n)[:, None]
    near = half // 2
    far = near + (torch.log(d.abs().clamp(min=1) / near)
                  / math.log(most / near) * (half - near)).long()
    bucket = torch.where(d.abs() < near, d.abs(), far.clamp(max=half - 1))
    return (bucket + half * (d > 0)).to(device)


def t5_norm(x, weight):
    y = x.float()
    return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def text_rows(text, ids, counts):
    """UMT5 on ids [B, n], rows past the prompt zeroed as Wan does."""
    n = ids.shape[1]
    mask = torch.arange(n, device=ids.device) < counts[:, None]
    buckets = distance_buckets(n, ids.device)
    x = F.embedding(ids, text.shared.weight)
    for block in text.encoder.block:
        attn, ffn = block.layer[0].SelfAttention, block.layer[1]
        y = t5_norm(x, block.layer[0].layer_norm.weight)
        q, k, v = (F.linear(y, m.weight).unflatten(-1, (attn.n_heads, -1))
                   for m in (attn.q, attn.k, attn.v))
        bias = F.embedding(buckets, attn.relative_attention_bias.weight)
        score = torch.einsum("bqhd,bkhd->bhqk", q, k).float()
        score = score + bias.permute(2, 0, 1).float()
        score = score.masked_fill(~mask[:, None, None], -1e9).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", score.to(v.dtype), v)
        x = x + F.linear(y.flatten(2), attn.o.weight)
        y, wide = t5_norm(x, ffn.layer_norm.weight), ffn.DenseReluDense
        y = (F.gelu(F.linear(y, wide.wi_0.weight), approximate="tanh")
             * F.linear(y, wide.wi_1.weight))
        x = x + F.linear(y, wide.wo.weight)
    x = t5_norm(x, text.encoder.final_layer_norm.weight)
    return x * mask.unsqueeze(-1)


def repeat_context(context, copies):
    """The context for several versions of the same clips."""
    kv, bias = context
    return ([(k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1))
             for k, v in kv], bias.repeat(copies, 1))


def text_context(dit, rows, counts):
    """Keys and values of the prompt for every block, and a bias.

    Wan's cross attention sees 512 rows, those past the prompt all equal. One
    such row with the logarithm of their number as bias is the same thing.
    """
    b, n, c = rows.shape
    rows = torch.cat([rows, rows.new_zeros(b, 1, c)], 1)
    e = dit.condition_embedder.text_embedder
    y = F.linear(F.gelu(F.linear(rows, e.linear_1.weight, e.linear_1.bias),
                        approximate="tanh"), e.linear_2.weight,
                 e.linear_2.bias)
    bias = torch.zeros(b, n + 1, device=rows.device)
    past = torch.arange(n, device=rows.device) >= counts[:, None]
    bias[:, :n] = bias[:, :n].masked_fill(past, -1e4)
    bias[:, n] = torch.log((TEXT_ROWS - counts).float())
    kv = []
    for block in dit.blocks:
        a = block.attn2
        k = rms(F.linear(y, a.to_k.weight, a.to_k.bias), a.norm_k.weight)
        v = F.linear(y, a.to_v.weight, a.to_v.bias)
        kv.append((k.unflatten(-1, (-1, HEAD)), v.unflatten(-1, (-1, HEAD))))
    return kv, bias


def join_contexts(a, b):
    """Two contexts as one batch."""
    return ([(torch.cat([k, x]), torch.cat([v, y]))
             for (k, v), (x, y) in zip(a[0], b[0])],
            torch.cat([a[1], b[1]]))


def time_embedding(dit, t):
    """t [B, parts] in 0..1000 -> e [B, parts, D], [B, parts, 6, D]."""
    freq = 10000.0 ** (-torch.arange(128, device=t.device,
                                     dtype=torch.float64) / 128)
    a = (t.double().unsqueeze(-1) * freq)
    a = torch.cat([a.cos(), a.sin()], -1).float()
    e = dit.condition_embedder
    te = e.time_embedder
    y = F.linear(F.silu(F.linear(a, te.linear_1.weight, te.linear_1.bias)),
                 te.linear_2.weight, te.linear_2.bias)
    m = F.linear(F.silu(y), e.time_proj.weight, e.time_proj.bias)
    return y.float(), m.float().unflatten(-1, (6, -1))


def dit_forward(dit, x, t, context, mode="full", first=0, past=None,
                tables=None):
    """The flow v for x [B, 16, frames, h, w].

    t: [B, parts] timesteps, the frames split evenly over the parts. past:
    for each layer keys and values (see block_forward). Returns v and each
    layer's own keys and values.
    """
    b, c, frames, h, w = x.shape
    cos, sin = tables or rope_table(first, frames, x.device)
    y = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))   # b c f gh 2 gw 2
    y = y.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    pe = dit.patch_embedding
    y = F.linear(y, pe.weight.flatten(1), pe.bias)
    e, mod = time_embedding(dit, t)
    kv, bias = context
    own = []
    for i, block in enumerate(dit.blocks):
        ck, cv = past[i] if past is not None else (None, None)
        y, k, v = RUN["block"](mode, block_params(block), y, mod, cos, sin,
                               kv[i][0], kv[i][1], bias, ck, cv)
        own.append((k, v))
    shift, scale = (dit.scale_shift_table.unsqueeze(1)
                    + e.unsqueeze(2)).unsqueeze(3).unbind(2)
    y = F.layer_norm(y, (y.shape[-1],), eps=1e-6)
    y = (y.unflatten(1, (e.shape[1], -1)) * (1 + scale) + shift)
    y = F.linear(y.flatten(1, 2), dit.proj_out.weight, dit.proj_out.bias)
    y = y.float().view(b, frames, h // 2, w // 2, 2, 2, c)
    y = y.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, frames, h, w)
    return y, own


# -------------------------------------------------------------- sampling

def sigma_of(t, shift=8.0):
    """The sigma that the CausVid schedule looks up for a timestep."""
    s = torch.linspace(1, 0, 1001)[:-1]
    table = shift * s / (1 + (shift - 1) * s)
    return float(table[(table * 1000 - t).abs().argmin()])


def object_weight(z, level=0.7, more=2.5):
    """Weight of each cell of clean latents [B, 16, T, h, w] in a loss, mean
    1: cells that differ from their frame's background count more.

    Objects cover less than half of a frame, so the median is background.
    """
    ground = z.flatten(3).median(-1)[0][..., None, None]
    far = (z - ground).pow(2).mean(1, keepdim=True) > level * level
    weight = 1 + more * far.to(z.dtype)
    return weight / weight.mean()


@torch.no_grad()
def roll(dit, context, latents, steps, sampler="causvid", generator=None,
         shape=(12, 20), states=None, empty=None, guidance=1.0):
    """Generates `latents` latent frames block by block with a cache.

    sampler "causvid": `steps` is the list of timesteps, x0 and fresh noise;
    "ode": `steps` is a list of sigmas, from 1 down to 0, Euler. `states`, a
    list, receives what the model was given at each timestep, whole clips.
    `empty` is the context of the empty prompt, for guidance: both run as one
    batch, each with its own cache.
    """
    batch, device = context[1].shape[0], context[1].device
    both = empty is not None and guidance != 1
    if both:
        context = join_contexts(context, empty)

    def noise():
        return torch.randn(batch, 16, BLOCK, *shape, device=device,
                           generator=generator)

    def times(n, t):
        return torch.full((n, 1), float(t), device=device)

    cache, out, seen = [], [], [[] for _ in steps]
    back = WINDOW // BLOCK - 1
    for n in range(0, latents, BLOCK):
        tables = rope_table(n, BLOCK, device)
        past = None
        if cache:
            past = [(torch.cat([c[i][0] for c in cache], 1),
                     torch.cat([c[i][1] for c in cache], 1))
                    for i in range(len(cache[0]))]

        def flow(x, t):
            if both:
                x = x.repeat(2, 1, 1, 1, 1)
            return dit_forward(dit, x, times(len(x), t), context, "cache",
                               past=past, tables=tables)

        def guided(x, t):
            v = flow(x, t)[0]
            if both:
                v, u = v.chunk(2)
                v = u + guidance * (v - u)
            return v
        x = noise()
        if sampler == "ode":
            for now, after in zip(steps[:-1], steps[1:]):
                x = x + (after - now) * guided(x, 1000 * now)
        else:
            for i, t in enumerate(steps):
                s = sigma_of(t)
                seen[i].append(x)
                x0 = x - s * guided(x, t)
                if i + 1 < len(steps):
                    s = sigma_of(steps[i + 1])
                    x = (1 - s) * x0 + s * noise()
            x = x0
        out.append(x)
        cache.append(flow(x, 0.0)[1])
        cache = cache[-back:]
    if states is not None:
        states.extend(torch.cat(x, 2) for x in seen)
    return torch.cat(out, 2)[:, :, :latents]
