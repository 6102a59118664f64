"""Stages 2 and 3 from nothing: the text encoder on what its captions say,
then transformer and text encoder by flow matching, first bidirectional, then
block-causal with teacher forcing. train_joint.py goes on from there.

    python3 train_dit.py --vae CHECKPOINTS --tokenizer TOKENIZER \\
        --out CHECKPOINTS --text 1 --bidirectional 2 --causal 4

The causal stage shows every noisy block the clean earlier blocks, whose keys
and values are computed at t = 0, exactly what the cache pass does when the
model runs. The clean blocks get a little noise, against drift.
"""
import argparse

import torch

import common
import data
import machine
import measure
import models
from optimiser import Average, Optimiser, rate_factor
from tokenizer import Tokenizer
from train_joint import dirty, sample_sigma


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


def prompt_context(dit, text, ids, counts, drop):
    """Some prompts become empty, so that guidance remains possible."""
    empty = torch.rand(len(ids), device=ids.device) < drop
    none = torch.zeros_like(ids)
    none[:, 0] = 1
    ids = torch.where(empty[:, None], none, ids)
    counts = torch.where(empty, 1, counts)
    rows = models.text_rows(text, ids, counts)
    return models.text_context(dit, rows, counts)


def train(name, args, nets, latents, minutes, batch, device):
    dit, text = nets
    causal = name == "causal"
    optimiser = Optimiser(nets, lr=args.lr)
    average = Average(optimiser)
    clock = machine.Clock(minutes, args.steps)
    frames = args.frames
    tables = models.rope_table(0, frames, device)
    parts = frames // models.BLOCK
    weight = torch.ones(1, 1, frames, 1, 1, device=device)
    weight[:, :, :models.BLOCK] = 2.0       # the first block is the hard one
    weight /= weight.mean()
    losses = []
    while clock.part() < 1:
        z, ids, counts, _ = latents.batch(batch, frames)
        with machine.cast(device):
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
        optimiser.backward(loss)
        norm = optimiser.step(rate_factor(clock.part()))
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
    optimiser = Optimiser([text, reader], adam_lr=3e-3)
    clock = machine.Clock(minutes, args.steps)
    while clock.part() < 1:
        ids, counts, want = latents.captions(batch)
        with machine.cast(device):
            rows = models.text_rows(text, ids, counts)
        loss, right = reader.loss(rows, counts, want)
        optimiser.backward(loss)
        optimiser.step(rate_factor(clock.part(), floor=0.2))
        clock.step += 1
        if clock.due("last_print", 5) or clock.step in (1, 20):
            print(f"text {clock.elapsed():6.1f} s step {clock.step} loss "
                  f"{loss.item():.4f} right {right.item():.4f}", flush=True)


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
    args.add_argument("--clips", type=int, default=30000)
    args.add_argument("--encode-seconds", type=float, default=75)
    args.add_argument("--batch", type=int, default=128)
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--lr", type=float, default=2e-3)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--sheet")
    args = args.parse_args()
    device = machine.setup()
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
                             args.encode_seconds, latents=args.frames)
    if device.type == "cuda":
        models.compile_block()
    nets = (dit, text)
    if args.text > 0:
        reader = Reader(models.TEXT_CONFIG["d_model"]).to(device)
        train_text(args, text, reader, latents, args.text, 8 * args.batch,
                   device)
    if args.bidirectional > 0:
        train("bidirectional", args, nets, latents, args.bidirectional,
              args.batch, device)
    if args.causal > 0:
        train("causal", args, nets, latents, args.causal,
              max(1, args.batch // 2), device)
    models.RUN["block"] = models.block_forward
    measure.teacher((vae, dit, text), stats, tokenizer, 16, 1.0, args.count,
                    device, args.frames, args.sheet)


if __name__ == "__main__":
    main()
