"""Stage 5: the few-step model learns to hold a long clip together.

    python3 steady.py --model STUDENT,../shapes --out STEADY --minutes 3

With two GPUs: torchrun --nproc-per-node 2 steady.py ...

Over 30 s a few-step model drifts: each block continues what it sees, and what
it sees is a little wrong already. Here the earlier blocks of real clips are
spoilt on purpose, by what the model itself makes of them when it redraws each
one from a noisy copy, often under another clip's prompt. Objects
stay where they are but lose their shape and colour, and the model learns to
give the next block the ones that the prompt names. With the earlier blocks
and the prompt known the next block is nearly determined, so that plain
regression to the real clip does not blur it.

First blocks are held at what the model made of them before.
"""
import argparse
import copy

import torch

import common
import data
import distill
import machine
import measure
import models
import train_joint
from optimiser import Average, Optimiser, rate_factor
from tokenizer import Tokenizer


def scene(rng, rotating=0.35):
    """More rotating objects than elsewhere: they are the first to go."""
    turning = rng.random() < rotating
    while True:
        s = data.sample_scene(rng)
        if not turning or any(o["motion"] == "rotating"
                              for o in s["objects"]):
            return s


def redraw(dit, z, rows, counts, sigma, tables):
    """Each block of z by itself, from a noisy copy of it, in one step."""
    blocks = z.shape[2] // models.BLOCK
    x = z.unflatten(2, (blocks, models.BLOCK)).transpose(1, 2).flatten(0, 1)
    s = sigma.repeat_interleave(blocks).view(-1, 1, 1, 1, 1)
    x = (1 - s) * x + s * torch.randn_like(x)
    context = models.text_context(dit, rows.repeat_interleave(blocks, 0),
                                  counts.repeat_interleave(blocks))
    v, _ = models.dit_forward(dit, x, 1000 * s.view(-1, 1), context, "blocks",
                              tables=tables)
    x = x - s * v
    return x.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)


def spoil(dit, z, rows, counts, tables):
    """Earlier blocks as a drifting model would have left them."""
    def rand(*size):
        return torch.rand(*size, device=z.device)
    n = len(z)
    other = rand(n) < 0.6
    rows = torch.where(other[:, None, None], rows.roll(1, 0), rows)
    counts = torch.where(other, counts.roll(1), counts)
    # Much more noise would hide how far a rotating object has turned.
    worse = redraw(dit, z, rows, counts, 0.3 + 0.4 * rand(n), tables)
    # A quarter of the clips, and some blocks of the others, are left alone.
    share = (0.3 + 0.7 * rand(n, 1)) * (rand(n, 1) < 0.75)
    share = share * (rand(n, z.shape[2] // models.BLOCK) < 0.85)
    share = share.repeat_interleave(models.BLOCK, 1)[:, None, :, None, None]
    return train_joint.dirty(z + share * (worse - z), 0.15)


class Step:
    """One training step: its tensors stay where they are (see Replay)."""

    def __init__(self, args, before, student, prompts, clips, device):
        self.args, self.before, self.student = args, before, student
        self.prompts, self.clips, self.device = prompts, clips, device
        self.timesteps = [int(t) for t in args.timesteps.split(",")]
        self.sigmas = [models.sigma_of(t) for t in self.timesteps]
        self.optimiser = Optimiser([student], lr=args.lr,
                                   adam_lr=0.5 * args.lr)
        self.mean = Average(self.optimiser, 0.995)
        self.head = models.rope_table(0, models.BLOCK, device)
        self.whole = models.rope_table(0, args.frames, device)
        self.compiled = models.RUN["block"]
        self.sums = torch.zeros(2 * len(self.sigmas) + 1, device=device)
        # Made here: a recorded step must not copy from the host.
        self.t_each = torch.tensor(self.timesteps, device=device).float()
        self.s_each = torch.tensor(self.sigmas, device=device)
        self.learn = machine.Replay(self.gradient, device, args.eager)
        self.move = machine.Replay(self.update, device, args.eager)

    def each(self, n, blocks):
        """Timesteps and sigmas for n clips a timestep."""
        return (self.t_each.repeat_interleave(n).view(-1, 1).expand(-1,
                                                                    blocks),
                self.s_each.repeat_interleave(n).view(-1, 1, 1, 1, 1))

    @torch.no_grad()
    def first_states(self, rows, counts):
        """What the model was given and answered at each timestep."""
        x = torch.randn(len(rows), 16, models.BLOCK, 2 * models.GRID_H,
                        2 * models.GRID_W, device=self.device)
        context = models.text_context(self.before, rows, counts)
        states, answers = [], []
        for i, s in enumerate(self.sigmas):
            t = torch.full((len(x), 1), float(self.timesteps[i]),
                           device=self.device)
            v, _ = models.dit_forward(self.before, x, t, context, "blocks",
                                      tables=self.head)
            states.append(x)
            answers.append(v)
            if i + 1 < len(self.sigmas):
                after = self.sigmas[i + 1]
                x = ((1 - after) * (x - s * v)
                     + after * torch.randn_like(x))
        return torch.cat(states), torch.cat(answers)

    @torch.no_grad()
    def clip_states(self, z, context, past):
        """What the model is given at each timestep: noise, then what it
        made of a noisy real clip at the timestep before, noisy again."""
        n = len(self.sigmas) - 1
        times, s = (v[:n * len(z)] for v in
                    self.each(len(z), z.shape[2] // models.BLOCK))
        real = z.repeat(n, 1, 1, 1, 1)
        x = (1 - s) * real + s * torch.randn_like(real)
        v, _ = models.dit_forward(self.student, x, times,
                                  models.repeat_context(context, n), "blocks",
                                  past=past, tables=self.whole)
        s_after = self.s_each[1:].repeat_interleave(len(z)).view(-1, 1, 1, 1,
                                                                 1)
        x = (1 - s_after) * (x - s * v) + s_after * torch.randn_like(x)
        return torch.cat([torch.randn_like(z), x])

    def losses(self, error, weight, s, n):
        error = (error * s).pow(2) / s * weight
        return error.unflatten(0, (-1, n)).flatten(1).mean(1)

    def gradient(self):
        args, student = self.args, self.student
        copies = len(self.sigmas)
        with machine.cast(self.device):
            # What needs no gradient has many shapes: not worth compiling.
            models.RUN["block"] = models.block_forward
            rows, counts = self.prompts.batch(args.first_batch)
            x, answers = self.first_states(rows, counts)
            z, clip_rows, clip_counts = self.clips.batch(args.clip_batch, 0.0)
            with torch.no_grad():
                history = spoil(self.before, z, clip_rows, clip_counts,
                                self.head)
            models.RUN["block"] = self.compiled

            times, s = self.each(len(rows), 1)
            context = models.text_context(student, rows, counts)
            v, _ = models.dit_forward(
                student, x, times, models.repeat_context(context, copies),
                "blocks", tables=self.head)
            ground = models.object_weight(x - s * answers)
            first = self.losses(v - answers, ground, s, len(rows))

            times, s = self.each(len(z), z.shape[2] // models.BLOCK)
            context = models.text_context(student, clip_rows, clip_counts)
            _, past = models.dit_forward(
                student, history, torch.zeros_like(times[:len(z)]), context,
                "blocks", tables=self.whole)
            models.RUN["block"] = models.block_forward
            x = self.clip_states(z, context,
                                 [(k.detach(), v.detach()) for k, v in past])
            models.RUN["block"] = self.compiled
            v, _ = models.dit_forward(
                student, x, times, models.repeat_context(context, copies),
                "blocks", past=past, tables=self.whole)
            # Nothing says where the objects of a first block are.
            weight = models.object_weight(z)
            weight[:, :, :models.BLOCK] = 0
            real = z.repeat(copies, 1, 1, 1, 1)
            clip = self.losses(v - (x - real) / s,
                               weight.repeat(copies, 1, 1, 1, 1), s, len(z))
        self.optimiser.backward(args.hold * first.sum() + clip.sum())
        self.sums += torch.cat([first.detach(), clip.detach(),
                                torch.ones_like(first[:1])])

    def update(self):
        self.optimiser.update()
        self.mean.update()

    def __call__(self, factor):
        self.optimiser.set_rate(factor)
        self.learn()
        machine.average(self.optimiser.grad)
        self.move()

    def shares(self):
        *losses, n = self.sums.tolist()
        self.sums.zero_()
        half = len(losses) // 2
        return " clip ".join(" ".join(f"{v / n:.4f}" for v in part)
                             for part in (losses[:half], losses[half:]))


def train(args, step, text, clock):
    def store():
        step.mean.swap()
        if machine.rank() == 0:
            for folder in filter(None, (args.out, args.copy)):
                common.save(folder, "dit", step.student)
                common.save(folder, "text", text)
        step.mean.swap()

    while clock.part() < 1:
        step(rate_factor(clock.part()))
        clock.step += 1
        if clock.due("last_print", 10) or clock.step in (1, 5, 20):
            machine.say(f"steady {clock.elapsed():6.1f} s step {clock.step} "
                        f"first {step.shares()} "
                        f"norm {step.optimiser.norm.item():.3f}")
        if clock.due("last_save", 40):
            store()
    store()
    step.mean.swap()
    machine.say(f"steady: {clock.step} steps, {machine.world()} processes, "
                f"{machine.memory()}")


def arguments():
    args = argparse.ArgumentParser()
    args.add_argument("--model", required=True,
                      help="folders of the few-step model, commas between")
    args.add_argument("--tokenizer", default=measure.SHAPES + "/tokenizer")
    args.add_argument("--out", required=True)
    args.add_argument("--copy", help="a second folder for the result")
    args.add_argument("--keep", help="folder for encoded clips")
    args.add_argument("--minutes", type=float, default=3)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--prompts", type=int, default=20000)
    args.add_argument("--clips", type=int, default=16000)
    args.add_argument("--encode-seconds", type=float, default=30)
    args.add_argument("--first-batch", type=int, default=64)
    args.add_argument("--clip-batch", type=int, default=16)
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--hold", type=float, default=1.0,
                      help="weight of the first blocks' part")
    args.add_argument("--lr", type=float, default=8e-4)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--long", type=int, default=1000,
                      help="prompts of the 30 s test")
    args.add_argument("--sheet")
    args.add_argument("--eager", action="store_true",
                      help="record no CUDA graphs")
    return args.parse_args()


def main():
    args = arguments()
    device = machine.setup()
    tokenizer = Tokenizer(args.tokenizer)
    (vae, student, text), stats = common.load_nets(args.model, tokenizer.size,
                                                   device)
    before = copy.deepcopy(student).requires_grad_(False)
    for net in (vae, text):
        net.requires_grad_(False)
    models.compile_small()
    clips = train_joint.Prompts(text, common.Latents(
        vae, stats, tokenizer, args.clips, device, args.encode_seconds,
        latents=args.frames, keep=args.keep, seed=machine.SEED + 4,
        scene=scene))
    prompts = distill.Prompts(text, tokenizer, args.prompts, device)
    if device.type == "cuda":
        models.compile_block()
    torch.manual_seed(machine.SEED + 9 + machine.rank())
    train(args, Step(args, before, student, prompts, clips, device), text,
          machine.Clock(args.minutes, args.steps))
    models.RUN["block"] = models.block_forward
    if machine.rank() == 0:
        # What is measured is what is stored: weights rounded to bfloat16.
        common.load(args.out, "dit", student, device)
        measure.student((vae, student, text), stats, tokenizer,
                        [int(t) for t in args.timesteps.split(",")],
                        args.count, device, long=args.long,
                        sheet_path=args.sheet)
    machine.finish()


if __name__ == "__main__":
    main()
