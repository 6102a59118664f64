"""Stage 3 continued: the causal flow model on first blocks and whole clips at
once, with the text encoder frozen.

    python3 train_joint.py --model ../shapes --out CK --minutes 8

With two GPUs: torchrun --nproc-per-node 2 train_joint.py ...

--model is an exported folder or a folder of checkpoints, so a run goes on
from whatever there is. First blocks get most of the work, because only they
have to be made from the prompt alone. A clip's clean pass, which gives the
keys and values of the earlier blocks, serves several noisy versions of it.
"""
import argparse

import torch

import common
import machine
import measure
import models
from optimiser import Average, Optimiser, rate_factor
from tokenizer import Tokenizer


class Prompts:
    """Rows of the frozen text encoder for every caption of a data set."""

    @torch.no_grad()
    def __init__(self, text, latents, chunk=2048):
        ids = latents.ids.flatten(0, 1)
        counts = latents.counts.flatten()
        self.latents = latents
        rows = []
        for i in range(0, len(ids), chunk):
            with machine.cast(ids.device):
                rows.append(models.text_rows(
                    text, ids[i:i + chunk],
                    counts[i:i + chunk]).to(torch.bfloat16))
        self.rows = torch.cat(rows)
        self.empty = empty_rows(text, ids.device)

    def batch(self, n, drop):
        """n clips with the rows of a prompt each; some prompts are empty, so
        that guidance is possible."""
        data, device = self.latents, self.rows.device
        i = torch.randint(len(data.z), (n,), device=device)
        j = torch.randint(data.ids.shape[1], (n,), device=device)
        rows = self.rows[i * data.ids.shape[1] + j].float()
        counts = data.counts[i, j]
        none = torch.rand(n, device=device) < drop
        rows = torch.where(none[:, None, None], self.empty, rows)
        counts = counts.masked_fill(none, 1)
        return data.z[i].float(), rows, counts


@torch.no_grad()
def empty_rows(text, device, n=models.TOKENS):
    """What the text encoder makes of the empty prompt, [n, width]."""
    ids = torch.zeros(1, n, dtype=torch.long, device=device)
    ids[:, 0] = 1
    return models.text_rows(text, ids,
                            torch.ones(1, dtype=torch.long,
                                       device=device))[0].float()


def sample_sigma(shape, device, shift):
    u = torch.rand(shape, device=device)
    return shift * u / (1 + (shift - 1) * u)


def dirty(z, level):
    """Clean clips with a little noise, of another strength in each."""
    strong = level * torch.rand(len(z), 1, 1, 1, 1, device=z.device)
    strong = strong * (torch.rand_like(strong) < 0.8)
    return z + strong * torch.randn_like(z)


def flow_loss(dit, z, weight, sigma, context, tables, past=None):
    """Weighted mean square error of the flow; sigma [B, blocks]."""
    noise = torch.randn_like(z)
    s = sigma.repeat_interleave(models.BLOCK, 1)[:, None, :, None, None]
    x = (1 - s) * z + s * noise
    v, _ = models.dit_forward(dit, x, 1000 * sigma, context, "blocks",
                              past=past, tables=tables)
    return ((v - (noise - z)).pow(2) * weight).mean()


class Step:
    """One training step: its tensors stay where they are (see Replay)."""

    def __init__(self, args, dit, firsts, clips, device):
        self.args, self.dit, self.device = args, dit, device
        self.firsts, self.clips = firsts, clips
        self.optimiser = Optimiser([dit], lr=args.lr, adam_lr=0.5 * args.lr)
        self.mean = Average(self.optimiser)
        self.head = models.rope_table(0, models.BLOCK, device)
        self.whole = models.rope_table(0, args.frames, device)
        self.sums = torch.zeros(3, device=device)
        self.learn = machine.Replay(self.gradient, device, args.eager)
        self.move = machine.Replay(self.update, device, args.eager)

    def gradient(self):
        args, dit = self.args, self.dit
        blocks = args.frames // models.BLOCK
        with machine.cast(self.device):
            z, rows, counts = self.firsts.batch(args.first_batch, args.drop)
            first = flow_loss(
                dit, z, models.object_weight(z),
                sample_sigma((len(z), 1), self.device, args.shift),
                models.text_context(dit, rows, counts), self.head)

            z, rows, counts = self.clips.batch(args.clip_batch, args.drop)
            context = models.text_context(dit, rows, counts)
            zero = torch.zeros(len(z), blocks, device=self.device)
            _, past = models.dit_forward(dit, dirty(z, 0.2), zero, context,
                                         "blocks", tables=self.whole)
            n = args.copies
            z = z.repeat(n, 1, 1, 1, 1)
            clip = flow_loss(
                dit, z, models.object_weight(z),
                sample_sigma((len(z), blocks), self.device, 3.0),
                models.repeat_context(context, n), self.whole, past)
        self.optimiser.backward(first + clip)
        self.sums += torch.stack([first.detach(), clip.detach(),
                                  torch.ones_like(first)])

    def update(self):
        self.optimiser.update()
        self.mean.update()

    def __call__(self, factor):
        self.optimiser.set_rate(factor)
        self.learn()
        machine.average(self.optimiser.grad)
        self.move()

    def flops(self):
        a = self.args
        clip = a.frames * models.FRAME_TOKENS
        return 3 * (models.forward_flops(a.first_batch * models.BLOCK_TOKENS,
                                         models.BLOCK_TOKENS)
                    + models.forward_flops(a.clip_batch * (1 + a.copies)
                                           * clip,
                                           models.causal_keys(a.frames)))


def train(args, dit, text, step, clock):
    def store():
        step.mean.swap()
        if machine.rank() == 0:
            for folder in filter(None, (args.out, args.copy)):
                common.save(folder, "dit", dit)
                common.save(folder, "text", text)
        step.mean.swap()

    since = clock.step, clock.elapsed()
    while clock.part() < 1:
        step(rate_factor(clock.part()))
        clock.step += 1
        if clock.due("last_print", 10) or clock.step in (1, 5, 20):
            first, clip, n = step.sums.tolist()
            step.sums.zero_()
            now = clock.step, clock.elapsed()
            rate = (now[0] - since[0]) / (now[1] - since[1])
            since = now
            machine.say(
                f"joint {now[1]:6.1f} s step {now[0]} first {first / n:.4f} "
                f"clip {clip / n:.4f} norm {step.optimiser.norm.item():.3f} "
                f"{1000 / rate:.1f} ms/step "
                f"{rate * step.flops() / 1e12:.1f} TFLOP/s")
        if args.profile and clock.step == 2:     # compiled, not recorded yet
            machine.profile(step.gradient)
        if clock.due("last_save", 60):
            store()
    store()
    step.mean.swap()
    machine.say(f"joint: {clock.step} steps of {args.first_batch} first "
                f"blocks and {args.clip_batch} clips x {args.copies}, "
                f"{machine.world()} processes, {machine.memory()}")


def arguments():
    args = argparse.ArgumentParser()
    args.add_argument("--model", required=True,
                      help="folders to start from, with commas between")
    args.add_argument("--tokenizer", default=measure.SHAPES + "/tokenizer")
    args.add_argument("--out", required=True)
    args.add_argument("--copy", help="a second folder for the result")
    args.add_argument("--keep", help="folder for encoded clips")
    args.add_argument("--minutes", type=float, default=8)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--firsts", type=int, default=120000)
    args.add_argument("--clips", type=int, default=16000)
    args.add_argument("--encode-seconds", type=float, default=30,
                      help="at most, for each of the two data sets")
    args.add_argument("--first-batch", type=int, default=512)
    args.add_argument("--clip-batch", type=int, default=16)
    args.add_argument("--copies", type=int, default=3)
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--drop", type=float, default=0.08)
    args.add_argument("--shift", type=float, default=5.0)
    args.add_argument("--lr", type=float, default=2e-3)
    args.add_argument("--ode", type=int, default=16)
    args.add_argument("--guidance", default="1,2",
                      help="measured afterwards, with commas between")
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--sheet")
    args.add_argument("--profile", action="store_true")
    args.add_argument("--eager", action="store_true",
                      help="record no CUDA graphs")
    return args.parse_args()


def main():
    args = arguments()
    device = machine.setup()
    tokenizer = Tokenizer(args.tokenizer)
    (vae, dit, text), stats = common.load_nets(args.model, tokenizer.size,
                                               device)
    for net in (vae, text):
        net.requires_grad_(False)
    models.compile_small()

    def encoded(count, latents, **more):
        return Prompts(text, common.Latents(
            vae, stats, tokenizer, count, device, args.encode_seconds,
            latents=latents, keep=args.keep, **more))
    clips = encoded(args.clips, args.frames)
    firsts = encoded(args.firsts, models.BLOCK, captions=2, chunk=256,
                     seed=machine.SEED + 2)
    if device.type == "cuda":
        models.compile_block()
    torch.manual_seed(machine.SEED + machine.rank())
    train(args, dit, text, Step(args, dit, firsts, clips, device),
          machine.Clock(args.minutes, args.steps))
    models.RUN["block"] = models.block_forward
    if machine.rank() == 0:
        # What is measured is what is stored: weights rounded to bfloat16.
        common.load(args.out, "dit", dit, device)
        for g in args.guidance.split(","):
            measure.teacher((vae, dit, text), stats, tokenizer, args.ode,
                            float(g), args.count, device, args.frames,
                            args.sheet)
    machine.finish()


if __name__ == "__main__":
    main()
