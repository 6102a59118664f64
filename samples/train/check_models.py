"""Holds models.py beside diffusers' and transformers' own forward passes.

    python3 check_models.py
"""
import torch

import models


def error(a, b):
    return float((a - b).norm() / b.norm())


def randomise(module, scale=0.05):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * scale)


def check_vae():
    vae = models.make_vae().eval()
    randomise(vae, 0.02)
    clip = torch.randn(1, 3, 13, 32, 48)
    mean, logvar = models.vae_encode(vae, clip)
    theirs = vae.encode(clip).latent_dist
    print("encode", error(mean, theirs.mean))
    z = torch.randn(2, 16, 5, 4, 6)
    for mode in ("3d", "fold"):
        models.CONV["mode"] = mode
        ours = models.vae_decode(vae, z)
        print("decode", mode,
              error(ours.clamp(-1, 1), vae.decode(z).sample))


def check_text():
    text = models.make_text(700).eval()
    randomise(text)
    ids = torch.randint(4, 700, (3, models.TOKENS))
    counts = torch.tensor([models.TOKENS, 20, 1])
    mask = torch.arange(models.TOKENS) < counts[:, None]
    theirs = text(input_ids=ids, attention_mask=mask.long())[0]
    print("text", error(models.text_rows(text, ids, counts),
                        theirs * mask.unsqueeze(-1)))


def check_dit():
    text = models.make_text(700).eval()
    dit = models.make_dit().eval()
    randomise(dit)
    ids = torch.randint(4, 700, (2, 9))
    counts = torch.tensor([9, 5])
    ids[1, 5:] = 0
    rows = models.text_rows(text, ids, counts)
    context = models.text_context(dit, rows, counts)
    full = torch.zeros(2, 512, rows.shape[-1])
    full[:, :9] = rows
    x = torch.randn(2, 16, 3, 12, 20)
    t = torch.tensor([700.0, 31.0])
    theirs = dit(x, t, full).sample
    ours, own = models.dit_forward(dit, x, t[:, None], context)
    print("forward", error(ours, theirs))

    # Block-causal over a clip, against the same thing block by block with a
    # cache: five blocks, so that the window slides.
    clip = torch.randn(2, 16, 15, 12, 20)
    noisy = torch.randn_like(clip)
    times = torch.rand(2, 5) * 1000
    _, clean = models.dit_forward(dit, clip, torch.zeros(2, 5), context,
                                  "blocks")
    ours, _ = models.dit_forward(dit, noisy, times, context, "blocks",
                                 past=clean)
    cache, steps = [], []
    for j in range(5):
        part = slice(3 * j, 3 * j + 3)
        past = None
        if cache:
            past = [(torch.cat([c[i][0] for c in cache[-3:]], 1),
                     torch.cat([c[i][1] for c in cache[-3:]], 1))
                    for i in range(len(cache[0]))]
        steps.append(models.dit_forward(dit, noisy[:, :, part],
                                        times[:, j:j + 1], context, "cache",
                                        first=3 * j, past=past)[0])
        cache.append(models.dit_forward(dit, clip[:, :, part],
                                        torch.zeros(2, 1), context, "cache",
                                        first=3 * j, past=past)[1])
    print("causal", error(ours, torch.cat(steps, 2)))
    twice, _ = models.dit_forward(
        dit, noisy.repeat(2, 1, 1, 1, 1), times.repeat(2, 1),
        models.repeat_context(context, 2), "blocks", past=clean)
    print("copies", error(twice, ours.repeat(2, 1, 1, 1, 1)))


if __name__ == "__main__":
    torch.manual_seed(1)
    with torch.no_grad():
        check_vae()
        check_text()
        check_dit()
    for make in (models.make_vae, models.make_dit,
                 lambda: models.make_text(700)):
        print(sum(p.numel() for p in make().parameters()), "parameters")
