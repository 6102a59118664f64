"""Stages 2 and 3: transformer and text encoder by flow matching, first
bidirectional, then block-causal with teacher forcing, then mostly on first
blocks, since only these have to be made from the prompt alone.

    python3 train_dit.py --vae CHECKPOINTS --tokenizer TOKENIZER \\
        --out CHECKPOINTS --bidirectional 2 --causal 4.6
    python3 train_dit.py --vae CHECKPOINTS --tokenizer TOKENIZER \\
        --resume CHECKPOINTS --out CHECKPOINTS --text 0.4 --joint 3.8

The causal stage shows every noisy block the clean earlier blocks, whose keys
and values are computed at t = 0, exactly what the cache pass does when the
model runs. The clean blocks get a little noise, against drift.
"""
import argparse

import torch

import common
import data
import measure
import models
from tokenizer import Tokenizer


def flow_loss(dit, z, sigma, context, mode, tables, past=None, weight=None):
    """Mean square error of the flow; sigma [B, parts]."""
    noise = torch.randn_like(z)
    frames = z.shape[2] // sigma.shape[1]
    s = sigma.repeat_interleave(frames, 1)[:, None, :, None, None]
    x = (1 - s) * z + s * noise
    v, _ = models.dit_forward(dit, x, 1000 * sigma, context, mode,
                              past=past, tables=tables)
    error = (v - (noise - z)).pow(2)
    if weight is not None:
        error = error * weight
    return error.mean()


def sample_sigma(shape, device, shift):
    u = torch.rand(shape, device=device)
    return shift * u / (1 + (shift - 1) * u)


def prompt_context(dit, text, ids, counts, drop):
    """Some prompts become empty, so that guidance remains possible."""
    empty = torch.rand(len(ids), device=ids.device) < drop
    none = torch.zeros_like(ids)
    none[:, 0] = 1
    ids = torch.where(empty[:, None], none, ids)
    counts = torch.where(empty, 1, counts)
    rows = models.text_rows(text, ids, counts)
    return models.text_context(dit, rows, counts)


def dirty(z, level):
    """Clean clips with a little noise, of another strength in each."""
    strong = level * torch.rand(len(z), 1, 1, 1, 1, device=z.device)
    strong = strong * (torch.rand_like(strong) < 0.8)
    return z + strong * torch.randn_like(z)


def train(name, args, nets, latents, minutes, batch, device):
    dit, text = nets
    causal = name == "causal"
    optimiser = common.Optimiser(nets, lr=args.lr)
    average = common.Average(nets)
    clock = common.Clock(minutes, args.steps)
    frames = args.frames
    tables = models.rope_table(0, frames, device)
    parts = frames // models.BLOCK
    weight = torch.ones(1, 1, frames, 1, 1, device=device)
    weight[:, :, :models.BLOCK] = 2.0       # the first block is the hard one
    weight /= weight.mean()
    losses = []
    while clock.part() < 1:
        z, ids, counts = latents.batch(batch, frames)
        with common.cast(device):
            context = prompt_context(dit, text, ids, counts, 0.08)
            if causal:
                _, past = models.dit_forward(
                    dit, dirty(z, 0.2), torch.zeros(batch, parts,
                                                    device=device),
                    context, "blocks", tables=tables)
                sigma = sample_sigma((batch, parts), device, 3.0)
                loss = flow_loss(dit, z, sigma, context, "blocks", tables,
                                 past, weight)
            else:
                sigma = sample_sigma((batch, 1), device, 3.0)
                loss = flow_loss(dit, z, sigma, context, "full", tables)
        loss.backward()
        norm = optimiser.step(common.rate_factor(clock.part()))
        average.update()
        clock.step += 1
        losses.append(loss.detach())
        if clock.due("last_print", 10) or clock.step in (1, 2, 5, 20):
            mean = torch.stack(losses).mean().item()
            print(f"{name} {clock.elapsed():6.1f} s step {clock.step} loss "
                  f"{mean:.4f} norm {norm.item():.3f}", flush=True)
            losses = []
        if clock.due("last_save", 60):
            average.swap()
            store(args, nets)
            average.swap()
    average.swap()
    store(args, nets)
    print(f"{name}: {clock.step} steps of {batch}", flush=True)


class Reader(torch.nn.Module):
    """Seven learned queries that read off the text encoder's rows what a
    caption says. Thrown away after training."""

    def __init__(self, width):
        super().__init__()
        n = len(data.CLASSES)
        self.ask = torch.nn.Parameter(torch.randn(n, width) * 0.1)
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(width, c) for c in data.CLASSES)

    def forward(self, rows, counts):
        score = rows.float() @ self.ask.t()
        past = torch.arange(rows.shape[1],
                            device=rows.device) >= counts[:, None]
        score = score.masked_fill(past.unsqueeze(-1), -1e4).softmax(1)
        read = torch.einsum("bnq,bnd->bqd", score, rows.float())
        return [h(read[:, i]) for i, h in enumerate(self.heads)]

    def loss(self, rows, counts, want):
        said = self(rows, counts)
        loss = sum(torch.nn.functional.cross_entropy(s, want[:, i])
                   for i, s in enumerate(said)) / len(said)
        right = sum((s.argmax(1) == want[:, i]).float().mean()
                    for i, s in enumerate(said)) / len(said)
        return loss, right


def train_text(args, text, reader, latents, minutes, batch, device):
    """The text encoder alone, on what its captions say."""
    optimiser = common.Optimiser([text, reader], adam_lr=3e-3)
    clock = common.Clock(minutes, args.steps)
    while clock.part() < 1:
        ids, counts, want = latents.captions(batch)
        with common.cast(device):
            rows = models.text_rows(text, ids, counts)
        loss, right = reader.loss(rows, counts, want)
        loss.backward()
        optimiser.step(common.rate_factor(clock.part(), floor=0.2))
        clock.step += 1
        if clock.due("last_print", 5) or clock.step in (1, 20):
            print(f"text {clock.elapsed():6.1f} s step {clock.step} loss "
                  f"{loss.item():.4f} right {right.item():.4f}", flush=True)


def train_joint(args, nets, reader, latents, firsts, minutes, device):
    """Three steps on first blocks for each step on whole causal clips."""
    dit, text = nets
    optimiser = common.Optimiser([*nets, reader], lr=args.lr)
    average = common.Average(nets)
    clock = common.Clock(minutes, args.steps)
    parts = args.frames // models.BLOCK
    whole = models.rope_table(0, args.frames, device)
    head = models.rope_table(0, models.BLOCK, device)
    batch = max(1, args.batch // 2)
    losses = {"first": [], "clip": [], "said": []}
    while clock.part() < 1:
        clip = clock.step % 4 == 3
        with common.cast(device):
            if clip:
                z, ids, counts = latents.batch(batch, args.frames)
                context = prompt_context(dit, text, ids, counts, 0.05)
                zero = torch.zeros(batch, parts, device=device)
                _, past = models.dit_forward(dit, dirty(z, 0.2), zero,
                                             context, "blocks", tables=whole)
                loss = flow_loss(dit, z, sample_sigma(zero.shape, device,
                                                      3.0),
                                 context, "blocks", whole, past)
            else:
                z, ids, counts, want = firsts.batch(5 * args.batch,
                                                    labels=True)
                rows = models.text_rows(text, ids, counts)
                context = models.text_context(dit, rows, counts)
                loss = flow_loss(dit, z, sample_sigma((len(z), 1), device,
                                                      5.0),
                                 context, "blocks", head)
        losses["clip" if clip else "first"].append(loss.detach())
        if not clip:
            extra, right = reader.loss(rows, counts, want)
            losses["said"].append(right.detach())
            loss = loss + 0.1 * extra
        loss.backward()
        norm = optimiser.step(common.rate_factor(clock.part()))
        average.update()
        clock.step += 1
        if clock.due("last_print", 10) or clock.step in (4, 20):
            mean = {k: torch.stack(v).mean().item()
                    for k, v in losses.items() if v}
            print(f"joint {clock.elapsed():6.1f} s step {clock.step} "
                  + " ".join(f"{k} {v:.4f}" for k, v in mean.items())
                  + f" norm {norm.item():.3f}", flush=True)
            losses = {k: [] for k in losses}
        if clock.due("last_save", 60):
            average.swap()
            store(args, nets)
            average.swap()
    average.swap()
    store(args, nets)
    print(f"joint: {clock.step} steps", flush=True)


def store(args, nets):
    for folder in filter(None, (args.out, args.copy)):
        common.save(folder, "dit", nets[0])
        common.save(folder, "text", nets[1])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--vae", required=True)
    args.add_argument("--tokenizer", required=True)
    args.add_argument("--out", required=True)
    args.add_argument("--copy")
    args.add_argument("--resume")
    args.add_argument("--bidirectional", type=float, default=0)
    args.add_argument("--causal", type=float, default=0)
    args.add_argument("--text", type=float, default=0)
    args.add_argument("--joint", type=float, default=0)
    args.add_argument("--firsts", type=int, default=90000)
    args.add_argument("--clips", type=int, default=30000)
    args.add_argument("--encode-seconds", type=float, default=75)
    args.add_argument("--batch", type=int, default=128)
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--lr", type=float, default=2e-3)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--sheet")
    args = args.parse_args()
    device = common.setup()
    tokenizer = Tokenizer(args.tokenizer)
    vae = models.make_vae()
    stats = common.load(args.vae, "vae", vae, device)
    dit, text = models.make_dit(), models.make_text(tokenizer.size)
    if args.resume:
        common.load(args.resume, "dit", dit, device)
        common.load(args.resume, "text", text, device)
    dit.to(device)
    text.to(device)
    models.compile_small()
    latents = common.Latents(vae, stats, tokenizer, args.clips, device,
                             args.encode_seconds,
                             frames=4 * args.frames - 3)
    if args.joint > 0:
        firsts = common.Latents(vae, stats, tokenizer, args.firsts, device,
                                args.encode_seconds, captions=2,
                                chunk=256, seed=common.SEED + 2,
                                frames=4 * models.BLOCK - 3)
        reader = Reader(models.TEXT_CONFIG["d_model"]).to(device)
    if device.type == "cuda":
        models.compile_block()
    nets = (dit, text)
    if args.text > 0:
        train_text(args, text, reader, firsts, args.text, 8 * args.batch,
                   device)
    if args.joint > 0:
        train_joint(args, nets, reader, latents, firsts, args.joint, device)
    if args.bidirectional > 0:
        train("bidirectional", args, nets, latents, args.bidirectional,
              args.batch, device)
    if args.causal > 0:
        train("causal", args, nets, latents, args.causal,
              max(1, args.batch // 2), device)
    models.RUN["block"] = models.block_forward
    prompts = measure.read_prompts()[:args.count]
    words = [p["prompt"] for p in prompts]
    for count in (16,):
        clips = measure.generate((vae, dit, text), stats, tokenizer, words,
                                 args.frames, measure.ode_steps(count),
                                 device, "ode")
        shares = measure.report(prompts, measure.measure_all(clips),
                                f"teacher, {count} Euler steps", 8)
    with open(args.out + "/share", "w", encoding="utf-8") as out:
        out.write(f"{sum(shares.values()) / len(shares):.3f}\n")
    if args.sheet:
        measure.sheet(clips[-24:], args.sheet)


if __name__ == "__main__":
    main()
