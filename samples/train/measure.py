"""Measures on the pixels whether clips show what their prompts say.

    python3 measure.py --checkpoints FOLDER --tokenizer FOLDER \\
        --timesteps 1000,757,522,250 [--seconds 30] [--sheet out.png]
"""
import argparse
import csv
import math
import os
import time

import torch

import common
import data
import models
from tokenizer import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FOLD = {"circle": 1, "ring": 1, "square": 4, "triangle": 3, "star": 5,
        "cross": 4}


def read_prompts(path=os.path.join(HERE, "..", "evaluate-prompts.tsv")):
    with open(path, encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source, delimiter="\t",
                                   quoting=csv.QUOTE_NONE))


def tokens(tokenizer, prompts, device):
    ids = [tokenizer.ids(p) for p in prompts]
    counts = torch.tensor([len(i) for i in ids], device=device)
    rows = [i + [0] * (47 - len(i)) for i in ids]
    return torch.tensor(rows, device=device), counts


def grid(device):
    ys = torch.arange(data.HEIGHT, device=device) + 0.5
    xs = torch.arange(data.WIDTH, device=device) + 0.5
    return ys.view(-1, 1), xs.view(1, -1)


def shape_areas(device):
    """Area of each shape of circumradius 1, measured on the drawing."""
    ys, xs = grid(device)
    y, x = ys - data.HEIGHT / 2, xs - data.WIDTH / 2
    return {s: float((0.5 - data.distance(s, x + 0 * y, y + 0 * x, 40.0))
                     .clamp(0, 1).sum()) / 1600 for s in data.SHAPES}


def unwrap(a, period):
    d = torch.remainder(a[:, 1:] - a[:, :-1] + period / 2, period)
    return torch.cat([a[:, :1], a[:, :1] + (d - period / 2).cumsum(1)], 1)


def slope(a):
    """Least squares slope per frame of [B, T]."""
    t = torch.arange(a.shape[1], device=a.device).float()
    t = t - t.mean()
    return (a * t).sum(1) / t.pow(2).sum()


@torch.no_grad()
def measure(clip):
    """Clips [B, 3, T, H, W] in -1..1 -> one dictionary a clip."""
    device = clip.device
    b, _, frames, _, _ = clip.shape
    names = data.COLOUR_NAMES
    palette = torch.tensor(list(data.COLOURS.values()),
                           device=device) / 127.5 - 1
    ys, xs = grid(device)
    pixels = clip.permute(0, 2, 3, 4, 1)
    some = pixels[:, ::4].reshape(b, -1, 3)
    nearest = torch.cdist(some, palette.expand(b, -1, -1)).argmin(-1)
    votes = torch.nn.functional.one_hot(nearest, len(names)).sum(1)
    order = votes.argsort(1, descending=True)
    ground, thing = order[:, 0], order[:, 1]

    def mean_of(which):
        m = (nearest == which[:, None]).float().unsqueeze(-1)
        return (some * m).sum(1) / m.sum(1).clamp(min=1)
    g, o = mean_of(ground), mean_of(thing)
    line = o - g
    alpha = ((pixels - g[:, None, None, None])
             * line[:, None, None, None]).sum(-1)
    alpha = (alpha / line.pow(2).sum(-1)[:, None, None, None].clamp(
        min=1e-4)).clamp(0, 1)
    alpha = torch.where(alpha < 0.15, 0.0, alpha)
    area = alpha.sum((2, 3)).clamp(min=1e-3)                     # [B, T]
    centre = []
    for size, c in ((data.WIDTH, xs), (data.HEIGHT, ys)):
        a = 2 * math.pi * c / size
        s = (alpha * a.sin()).sum((2, 3))
        k = (alpha * a.cos()).sum((2, 3))
        centre.append(torch.remainder(torch.atan2(s, k) * size
                                      / (2 * math.pi), size))
    vx = slope(unwrap(centre[0], data.WIDTH)) * data.RATE
    vy = slope(unwrap(centre[1], data.HEIGHT)) * data.RATE
    radius = area.sqrt()
    growth = (radius[:, 4:] - radius[:, :-4]).median(1)[0] * data.RATE / 4

    def around(frame):
        dx = xs - centre[0][:, frame, None, None]
        dy = ys - centre[1][:, frame, None, None]
        dx = torch.remainder(dx + data.WIDTH / 2,
                             data.WIDTH) - data.WIDTH / 2
        dy = torch.remainder(dy + data.HEIGHT / 2,
                             data.HEIGHT) - data.HEIGHT / 2
        return dx.expand(b, data.HEIGHT, -1), dy.expand(b, -1, data.WIDTH)

    score = torch.zeros(b, len(data.SHAPES), device=device)
    areas = shape_areas(device)
    for frame in [frames * i // 12 for i in (1, 3, 5, 7, 9, 11)]:
        dx, dy = around(frame)
        m = alpha[:, frame]
        for i, shape in enumerate(data.SHAPES):
            r = (area[:, frame] / areas[shape]).sqrt()[:, None, None]
            best = torch.zeros(b, device=device)
            for step in range(1 if FOLD[shape] == 1 else 10):
                a = 2 * math.pi * step / 10 / FOLD[shape]
                c, s = math.cos(a), math.sin(a)
                d = data.distance(shape, c * dx + s * dy, c * dy - s * dx, r)
                t = (0.5 - d).clamp(0, 1)
                both = torch.minimum(t, m).sum((1, 2))
                best = torch.maximum(
                    best, both / torch.maximum(t, m).sum((1, 2)))
            score[:, i] += best / 6
    shape = score.argmax(1)

    # Turns/s from the phase of the angular harmonic of the shape.
    fold = torch.tensor([FOLD[s] for s in data.SHAPES],
                        device=device)[shape]
    phases = []
    for frame in range(frames):
        dx, dy = around(frame)
        theta = torch.atan2(dy, dx) * fold[:, None, None]
        w = alpha[:, frame] * (dx * dx + dy * dy)
        phases.append(torch.atan2((w * theta.sin()).sum((1, 2)),
                                  (w * theta.cos()).sum((1, 2))))
    turn = slope(unwrap(torch.stack(phases, 1), 2 * math.pi))
    turn = turn * data.RATE / (2 * math.pi) / fold

    out = []
    for i in range(b):
        x, y = vx[i].item(), vy[i].item()
        if max(abs(x), abs(y)) > 7:
            if abs(x) > abs(y):
                motion = "right" if x > 0 else "left"
            else:
                motion = "down" if y > 0 else "up"
        elif abs(growth[i].item()) > 1.5:
            motion = "growing" if growth[i] > 0 else "shrinking"
        elif fold[i] > 1 and abs(turn[i].item()) > 0.06:
            motion = "rotating"
        else:
            motion = "still"
        out.append({"background": names[ground[i]],
                    "colour": names[thing[i]],
                    "second": names[order[i, 2]],
                    "shape": data.SHAPES[shape[i]], "motion": motion,
                    "vx": x, "vy": y, "growth": growth[i].item(),
                    "turn": turn[i].item(), "fit": score[i].max().item()})
    return out


def measure_all(clips, chunk=16):
    out = []
    for i in range(0, len(clips), chunk):
        out += measure(clips[i:i + chunk].float())
    return out


def report(prompts, results, title, wrong=0):
    """Prints the shares that are right; returns them."""
    one = [(p, r) for p, r in zip(prompts, results) if not p["colour2"]]
    two = [(p, r) for p, r in zip(prompts, results) if p["colour2"]]
    shares = {k: sum(p[k] == r[k] for p, r in one) / max(1, len(one))
              for k in ("colour", "background", "motion", "shape")}
    text = " ".join(f"{k} {100 * v:.1f}" for k, v in shares.items())
    if two:
        both = sum({p["colour"], p["colour2"]} == {r["colour"], r["second"]}
                   and p["background"] == r["background"] for p, r in two)
        text += f" two-object colours {100 * both / len(two):.1f}"
    good = [r["fit"] for _, r in one if r["fit"] == r["fit"]]
    fit = sum(good) / max(1, len(good))
    print(f"{title}: {len(one)}+{len(two)} clips: {text} fit {fit:.3f}",
          flush=True)
    for p, r in one:
        if wrong and any(p[k] != r[k] for k in shares):
            wrong -= 1
            print("  wrong:", p["prompt"], "->", {
                k: (round(v, 2) if isinstance(v, float) else v)
                for k, v in r.items()}, flush=True)
    return shares


@torch.no_grad()
def generate(nets, stats, tokenizer, prompts, latents, steps, device,
             sampler="causvid", seed=1, keep_last=None, group=64,
             dtype=None):
    """Clips for prompts; keep_last: only so many last latents are decoded
    to pixels (plus three before them as history)."""
    vae, dit, text = nets
    mean = stats["mean"].view(1, -1, 1, 1, 1)
    std = stats["std"].view(1, -1, 1, 1, 1)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda"
                      else torch.float32)
    g = torch.Generator(device=device).manual_seed(seed)
    clips = []
    for i in range(0, len(prompts), group):
        with common.cast(device):
            ids, counts = tokens(tokenizer, prompts[i:i + group], device)
            rows = models.text_rows(text, ids, counts)
            context = models.text_context(dit, rows, counts)
            z = models.roll(dit, context, latents, steps, sampler, g)
        z = z.float()
        if keep_last:
            z = z[:, :, -keep_last - 6:]
        z = z * std + mean
        for j in range(0, len(z), 16):
            clip = models.vae_decode(vae, z[j:j + 16], dtype).clamp(-1, 1)
            if keep_last:
                clip = clip[:, :, -4 * keep_last:]
            clips.append(clip.to(torch.float16))
    return torch.cat(clips)


def ode_steps(count, shift=3.0):
    s = torch.linspace(1, 0, count + 1)
    return (shift * s / (1 + (shift - 1) * s)).tolist()


def sheet(clips, path, columns=6):
    """A contact sheet: a row a clip."""
    from PIL import Image
    frames = clips.shape[2]
    pick = [round(i * (frames - 1) / (columns - 1)) for i in range(columns)]
    v = ((clips[:, :, pick].float() + 1) * 127.5).round().clamp(0, 255)
    v = v.byte().permute(0, 3, 2, 4, 1).cpu()      # B H n W 3
    v = v.reshape(-1, len(pick) * data.WIDTH, 3)
    Image.fromarray(v.numpy()).save(path)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--checkpoints", required=True)
    args.add_argument("--tokenizer", required=True)
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--ode", type=int, default=0)
    args.add_argument("--seconds", type=float, default=5)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--sheet")
    args.add_argument("--wrong", type=int, default=10)
    args.add_argument("--drawn", action="store_true",
                      help="measure the renderer's own clips instead")
    args = args.parse_args()
    device = common.setup()
    prompts = read_prompts()[:args.count]
    if args.drawn:
        import random
        rng = random.Random(3)
        clips = []
        for p in prompts:
            first = (p["colour"], p["shape"], p["motion"])
            if p["colour2"]:
                scene = data.scene_two(rng, (first, (
                    p["colour2"], p["shape2"], p["motion2"])),
                    p["background"])
            else:
                scene = data.scene_one(rng, first, p["background"])
            clips.append(data.render([scene], device=device))
        report(prompts, measure_all(torch.cat(clips)), "drawn", args.wrong)
        return
    nets, stats = load_nets(args.checkpoints, args.tokenizer, device)
    tokenizer = Tokenizer(args.tokenizer)
    begin = time.time()
    steps = ([int(t) for t in args.timesteps.split(",")] if not args.ode
             else ode_steps(args.ode))
    long = args.seconds > 6
    latents = 3 * math.ceil((args.seconds * data.RATE + 3) / 4 / 3)
    clips = generate(nets, stats, tokenizer, [p["prompt"] for p in prompts],
                     latents, steps, device,
                     "ode" if args.ode else "causvid",
                     keep_last=20 if long else None)
    report(prompts, measure_all(clips), f"{args.seconds} s", args.wrong)
    print(f"{time.time() - begin:.1f} s")
    if args.sheet:
        sheet(clips[:24], args.sheet)


def load_nets(folder, tokenizer_folder, device):
    vae, dit = models.make_vae(), models.make_dit()
    text = models.make_text(Tokenizer(tokenizer_folder).size)
    stats = common.load(folder, "vae", vae, device)
    common.load(folder, "dit", dit, device)
    common.load(folder, "text", text, device)
    return (vae.eval(), dit.eval(), text.eval()), stats


if __name__ == "__main__":
    main()
