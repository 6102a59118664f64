"""Stage 1: the VAE, on clips drawn while training.

    python3 train_vae.py --out CHECKPOINTS --minutes 4
"""
import argparse
import random
import time

import torch

import common
import data
import machine
import models
from optimiser import Average, Optimiser, rate_factor


def draw(rng, count, frames, device):
    scenes = [data.sample_scene(rng, two=0.4) for _ in range(count)]
    first = [rng.randint(0, 400) for _ in scenes]
    return data.render(scenes, frames, first, device)


def edges(a, b):
    """L1 of the differences along time, rows and columns."""
    d = a - b
    return ((d[:, :, 1:] - d[:, :, :-1]).abs().mean()
            + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
            + (d[..., 1:] - d[..., :-1]).abs().mean())


def loss_of(vae, clip, dtype):
    mean, logvar = models.vae_encode(vae, clip, dtype)
    # The decoder has to live with latents that are a little wrong.
    level = 0.2 * torch.rand(len(mean), 1, 1, 1, 1, device=clip.device)
    out = models.vae_decode(vae, mean + level * torch.randn_like(mean), dtype)
    flat = (out - clip).abs().mean()
    loss = flat + 0.5 * edges(out, clip) + 5e-4 * mean.pow(2).mean()
    return loss + 1e-2 * (logvar + 4.6).pow(2).mean(), flat, mean


def choose_conv(vae, device, dtype):
    """Measures both forms of the convolution; keeps the faster one."""
    clip = data.render([data.sample_scene(random.Random(1))] * 8, 17,
                       device=device)
    best = {}
    for mode in ("3d", "fold"):
        models.CONV["mode"] = mode
        for i in range(4):
            if i == 2:
                if device.type == "cuda":
                    torch.cuda.synchronize()
                begin = time.time()
            loss_of(vae, clip, dtype)[0].backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best[mode] = (time.time() - begin) / 2
        vae.zero_grad()
    models.CONV["mode"] = min(best, key=best.get)
    print("convolution, 8 x 17 frames, s:", best, flush=True)


@torch.no_grad()
def statistics(vae, rng, device, dtype, clips):
    parts = []
    begin = time.time()
    for _ in range(max(1, clips // 16)):
        clip = draw(rng, min(16, clips), data.FRAMES, device)
        z = models.vae_encode(vae, clip, dtype)[0]
        parts.append(z.transpose(0, 1).flatten(1))
    z = torch.cat(parts, 1)
    z = z.cpu()                  # waits for the device
    print(f"{clips} clips encoded in {time.time() - begin:.1f} s", flush=True)
    z = z.to(device)
    mean, std = z.mean(1), z.std(1)
    print("latent std:", [round(v, 2) for v in std.tolist()], flush=True)
    # A channel that says little stays small instead of being blown up.
    return {"mean": mean, "std": std.clamp(min=0.25 * float(std.max()))}


@torch.no_grad()
def quality(vae, rng, device, clips):
    """Error in float32 with the rounded weights, frame by frame kinds."""
    clip = draw(rng, clips, data.FRAMES, device)
    z = models.vae_encode(vae, clip)[0]
    out = models.vae_decode(vae, z).clamp(-1, 1)
    e = (out - clip) / 2
    noisy = models.vae_decode(vae, z + 0.1 * torch.randn_like(z))
    psnr = [-10 * torch.log10(v.pow(2).mean()).item()
            for v in (e, e[:, :, :1], e[:, :, -16:],
                      (noisy.clamp(-1, 1) - clip) / 2)]
    print("psnr: all %.2f, first frame %.2f, last second %.2f, noise 0.1 "
          "%.2f" % tuple(psnr), flush=True)
    return clip, out


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("--copy", help="a second folder for the result")
    args.add_argument("--minutes", type=float, default=4)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--batch", type=int, default=24)
    args.add_argument("--resume")
    args.add_argument("--lr", type=float, default=2e-3)
    args = args.parse_args()
    device = machine.setup()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rng = random.Random(machine.SEED)
    vae = models.make_vae().to(device)
    if args.resume:
        common.load(args.resume, "vae", vae, device)
    models.compile_small()
    if device.type == "cuda":
        choose_conv(vae, device, dtype)
    vae = vae.to(device)
    optimiser = Optimiser([vae], lr=args.lr, adam_lr=args.lr)
    average = Average(optimiser, 0.995)
    clock = machine.Clock(args.minutes, args.steps)
    pool = torch.zeros(0)
    place, frames, batch = 0, 17, args.batch
    while clock.part() < 1:
        if clock.part() > 0.8 and frames == 17:   # longer clips at the end
            frames, batch, pool, place = 41, max(1, args.batch // 3), [], 0
        if place + batch > len(pool):
            pool = draw(rng, 10 * batch, frames, device)
            place = 0
        clip = pool[place:place + batch]
        place += batch
        loss, flat, mean = loss_of(vae, clip, dtype)
        optimiser.backward(loss)
        optimiser.step(rate_factor(clock.part()))
        average.update()
        clock.step += 1
        if clock.due("last_print", 10) or clock.step <= 3:
            print(f"vae {clock.elapsed():6.1f} s step {clock.step} loss "
                  f"{loss.item():.5f} l1 {flat.item():.5f} latent rms "
                  f"{mean.pow(2).mean().sqrt().item():.3f}", flush=True)
        if clock.due("last_save", 60):
            average.swap()
            common.save(args.out, "vae", vae, {"mean": torch.zeros(16),
                                               "std": torch.ones(16)})
            average.swap()
    average.swap()
    few = args.steps > 0
    stats = statistics(vae, random.Random(7), device, dtype,
                       2 if few else 256)
    for folder in filter(None, (args.out, args.copy)):
        common.save(folder, "vae", vae, stats)
    common.load(args.out, "vae", vae, device)
    quality(vae, random.Random(8), device, 2 if few else 16)
    print(f"vae: {clock.step} steps", flush=True)


if __name__ == "__main__":
    main()
