"""Generates the evaluation clips in PyTorch and measures what they show.

    python3 measure.py --model FOLDERS --timesteps 1000,757,522,250 \\
        [--teacher FOLDERS --guidance 3] [--long 316] [--sheet out.png]
    python3 measure.py --drawn

Much faster than samples/evaluate on a GPU, but samples/evaluate is what
counts: it runs the engine.
"""
import argparse
import csv
import os
import random
import time

import torch

import common
import data
import machine
import models
import pixels
from tokenizer import MAX_TOKENS, Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = os.path.join(HERE, "..", "shapes")
BARS = {"colour": 97, "background": 97, "motion": 95, "shape": 90}


def read_prompts(count=1000,
                 path=os.path.join(HERE, "..", "evaluate-prompts.tsv")):
    """Evenly taken, so that prompts with two objects are among them."""
    with open(path, encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source, delimiter="\t",
                                   quoting=csv.QUOTE_NONE))
    return rows[::max(1, -(-len(rows) // count))]


def tokens(tokenizer, prompts, device):
    ids = [tokenizer.ids(p) for p in prompts]
    counts = torch.tensor([len(i) for i in ids], device=device)
    rows = [i + [0] * (MAX_TOKENS - len(i)) for i in ids]
    return torch.tensor(rows, device=device), counts


def wanted(prompt):
    """The objects that a prompt of the list asks for."""
    return [{k: prompt[k + tail] for k in ("colour", "shape", "motion")}
            for tail in ("", "2") if prompt["colour" + tail]]


def measure_all(prompts, clips, chunk=16):
    out = [None] * len(prompts)
    for count in (1, 2):
        which = [i for i, p in enumerate(prompts) if len(wanted(p)) == count]
        for i in range(0, len(which), chunk):
            part = which[i:i + chunk]
            for j, seen in zip(part, pixels.measure(clips[part].float(),
                                                    count)):
                out[j] = seen
    return out


def report(prompts, results, title, wrong=0):
    """Prints the shares of objects that are right; returns them."""
    tally = {k: [] for k in BARS}
    for prompt, (ground, objects) in zip(prompts, results):
        tally["background"].append(prompt["background"] == ground)
        for want in wanted(prompt):
            # Matched by colour, as samples/evaluate does.
            seen = [o for o in objects if o["colour"] == want["colour"]]
            right = {k: bool(seen) and seen[0][k] == want[k] for k in want}
            for k, v in right.items():
                tally[k].append(v)
            if wrong and not all(right.values()):
                wrong -= 1
                machine.say("  wrong:", prompt["prompt"], "->", [
                    {k: round(v, 2) if isinstance(v, float) else v
                     for k, v in o.items()} for o in (seen or objects)])
    shares = {k: 100 * sum(v) / max(1, len(v)) for k, v in tally.items()}
    machine.say(f"{title}: {len(prompts)} clips: " + " ".join(
        f"{k} {v:.1f}" for k, v in shares.items()) + (
        " PASS" if all(shares[k] >= BARS[k] for k in BARS) else ""))
    return shares


@torch.no_grad()
def generate(nets, stats, tokenizer, prompts, latents, steps, device,
             sampler="causvid", seed=1, keep_last=None, group=512,
             guidance=1.0):
    """Clips for prompts, [B, 3, T, H, W]; keep_last: only so many last
    latents are decoded (plus six before them as history)."""
    vae, dit, text = nets
    mean = stats["mean"].view(1, -1, 1, 1, 1)
    std = stats["std"].view(1, -1, 1, 1, 1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator(device=device).manual_seed(seed)
    clips = []

    def context(texts):
        ids, counts = tokens(tokenizer, texts, device)
        return models.text_context(dit, models.text_rows(text, ids, counts),
                                   counts)
    for i in range(0, len(prompts), group):
        part = prompts[i:i + group]
        with machine.cast(device):
            empty = context([""] * len(part)) if guidance != 1 else None
            z = models.roll(dit, context(part), latents, steps, sampler, g,
                            empty=empty, guidance=guidance)
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


def ode_steps(count, shift=3.0, first=1.0):
    """Sigmas from `first` down to 0; from 1 there are `count` steps."""
    top = first / (shift - (shift - 1) * first)
    s = torch.linspace(top, 0, max(2, round(count * top)) + 1)
    return (shift * s / (1 + (shift - 1) * s)).tolist()


def teacher(nets, stats, tokenizer, ode, guidance, count, device, latents=21,
            sheet_path=None):
    begin = time.time()
    prompts = read_prompts(count)
    clips = generate(nets, stats, tokenizer, [p["prompt"] for p in prompts],
                     latents, ode_steps(ode), device, "ode",
                     guidance=guidance)
    report(prompts, measure_all(prompts, clips),
           f"flow model, {ode} Euler steps, guidance {guidance}", 4)
    machine.say(f"{time.time() - begin:.1f} s")
    if sheet_path:
        sheet(clips[-24:], sheet_path)


def student(nets, stats, tokenizer, timesteps, count, device, latents=21,
            long=0, sheet_path=None):
    """The few-step model; `long`: so many prompts also for 30 s."""
    begin = time.time()
    prompts = read_prompts(count)
    clips = generate(nets, stats, tokenizer, [p["prompt"] for p in prompts],
                     latents, timesteps, device)
    report(prompts, measure_all(prompts, clips), f"student {timesteps}", 6)
    if sheet_path:
        sheet(clips[-24:], sheet_path)
    if long:
        prompts = read_prompts(long)
        clips = generate(nets, stats, tokenizer,
                         [p["prompt"] for p in prompts], 123, timesteps,
                         device, keep_last=20)
        report(prompts, measure_all(prompts, clips), "30 s, last 5 s", 6)
        if sheet_path:
            sheet(clips[-24:], sheet_path.replace(".png", "-30.png"))
    machine.say(f"{time.time() - begin:.1f} s")


def sheet(clips, path, columns=6):
    """A contact sheet: a row a clip."""
    from PIL import Image
    frames = clips.shape[2]
    pick = [round(i * (frames - 1) / (columns - 1)) for i in range(columns)]
    v = ((clips[:, :, pick].float() + 1) * 127.5).round().clamp(0, 255)
    v = v.byte().permute(0, 3, 2, 4, 1).cpu()      # B H n W 3
    v = v.reshape(-1, len(pick) * data.WIDTH, 3)
    Image.fromarray(v.numpy()).save(path)


def drawn(count, device):
    """What a perfect model would score: the renderer's own clips."""
    rng = random.Random(3)
    prompts, clips = read_prompts(count), []
    for p in prompts:
        triples = [tuple(o.values()) for o in wanted(p)]
        scene = (data.scene_two(rng, triples, p["background"])
                 if len(triples) == 2
                 else data.scene_one(rng, triples[0], p["background"]))
        clips.append(data.render([scene], device=device))
    report(prompts, measure_all(prompts, torch.cat(clips)), "drawn", 10)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--model", default=SHAPES)
    args.add_argument("--teacher")
    args.add_argument("--tokenizer", default=SHAPES + "/tokenizer")
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--ode", type=int, default=16)
    args.add_argument("--guidance", type=float, default=3.0)
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--long", type=int, default=0)
    args.add_argument("--sheet")
    args.add_argument("--drawn", action="store_true")
    args = args.parse_args()
    device = machine.setup()
    if args.drawn:
        return drawn(args.count, device)
    tokenizer = Tokenizer(args.tokenizer)
    if args.teacher:
        nets, stats = common.load_nets(args.teacher, tokenizer.size, device)
        teacher(nets, stats, tokenizer, args.ode, args.guidance, args.count,
                device, args.frames)
    if args.timesteps:
        nets, stats = common.load_nets(args.model, tokenizer.size, device)
        student(nets, stats, tokenizer,
                [int(t) for t in args.timesteps.split(",")], args.count,
                device, args.frames, args.long, args.sheet)


if __name__ == "__main__":
    main()
