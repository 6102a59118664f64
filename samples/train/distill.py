"""Stage 4: the causal flow model becomes a few-step CausVid model.

    python3 distill.py --teacher CK,../shapes --out STUDENT --minutes 6 \\
        --timesteps 1000,757,522,250 --guidance 3

With two GPUs: torchrun --nproc-per-node 2 distill.py ...

The student learns to jump from the listed timesteps to the end of the path
that the teacher (the flow model, frozen, with guidance) takes from there.
First as in the CausVid paper: the teacher walks first blocks from noise to
data, and the student jumps from points of that path. Then on the student's
own ground: it generates first blocks and long clips with its cache and its
renewed noise, and learns to jump from each state it came to, to where the
teacher would have gone from there after the same earlier blocks. So it learns
to repair its own mistakes, also those that add up over a long clip.

Only prompts are needed, no clips. Lessons are kept and used several times,
since the teacher's part is most of the cost.
"""
import argparse
import copy
import random

import torch

import common
import data
import machine
import measure
import models
import train_joint
from optimiser import Average, Optimiser, rate_factor
from tokenizer import Tokenizer


class Teacher:
    """The flow model with guidance, on whole clips, all blocks at once."""

    def __init__(self, dit, empty, guidance, count):
        self.dit, self.empty = dit, empty
        self.guidance, self.count = guidance, count

    def listen(self, z, rows, counts):
        """Everything but the noisy clip: contexts and earlier blocks."""
        guided = self.guidance != 1
        context = models.text_context(self.dit, rows, counts)
        if guided:
            none = models.text_context(
                self.dit, self.empty.expand(len(rows), -1, -1),
                torch.ones_like(counts))
            context = models.join_contexts(context, none)
        past = None
        if z.shape[2] > models.BLOCK:
            z = z.repeat(1 + guided, 1, 1, 1, 1)
            past = clean_pass(self.dit, z, context)
        return context, past

    def flow(self, x, sigma, context, past):
        if self.guidance != 1:
            x = x.repeat(2, 1, 1, 1, 1)
        blocks = x.shape[2] // models.BLOCK
        t = torch.full((len(x), blocks), 1000 * sigma, device=x.device)
        v, _ = models.dit_forward(
            self.dit, x, t, context, "blocks", past=past,
            tables=models.rope_table(0, x.shape[2], x.device))
        if self.guidance != 1:
            v, u = v.chunk(2)
            v = u + self.guidance * (v - u)
        return v

    def walk(self, x, sigmas, context, past):
        for now, after in zip(sigmas[:-1], sigmas[1:]):
            x = x + (after - now) * self.flow(x, now, context, past)
        return x

    def path(self, sigmas, noise, context):
        """x at each of `sigmas` on the way of first blocks from noise, and
        the end."""
        line = measure.ode_steps(self.count)
        x, now, points = noise, 1.0, []
        for sigma in [*sigmas, 0.0]:
            if sigma < now:
                between = [s for s in line if sigma + 0.01 < s < now - 0.01]
                x = self.walk(x, [now, *between, sigma], context, None)
            points.append(x)
            now = sigma
        return points[:-1], points[-1]

    def ends(self, states, sigmas, context, past):
        """Where the teacher goes from each state."""
        return [self.walk(x, measure.ode_steps(self.count, first=s), context,
                          past) for x, s in zip(states, sigmas)]


def clean_pass(dit, z, context):
    """Keys and values of finished clips."""
    zero = torch.zeros(len(z), z.shape[2] // models.BLOCK, device=z.device)
    return models.dit_forward(
        dit, z, zero, context, "blocks",
        tables=models.rope_table(0, z.shape[2], z.device))[1]


class Prompts:
    """Captions of random scenes as rows of the frozen text encoder."""

    @torch.no_grad()
    def __init__(self, text, tokenizer, count, device, chunk=2048):
        rng = random.Random(machine.SEED + 1 + 1000 * machine.rank())
        rows, counts = [], []
        for i in range(0, count, chunk):
            words = [data.caption(rng, data.sample_scene(rng))
                     for _ in range(min(chunk, count - i))]
            ids, n = measure.tokens(tokenizer, words, device)
            with machine.cast(device):
                rows.append(models.text_rows(text, ids, n).bfloat16())
            counts.append(n)
        self.rows, self.counts = torch.cat(rows), torch.cat(counts)

    def batch(self, n):
        i = torch.randint(len(self.rows), (n,), device=self.rows.device)
        return self.rows[i].float(), self.counts[i]


class Lessons:
    """A ring of lessons on clips of one length."""

    def __init__(self, size, frames, states, prompts):
        shape = (size, 16, frames, 2 * models.GRID_H, 2 * models.GRID_W)
        like = {"dtype": torch.bfloat16, "device": prompts.rows.device}
        self.frames, self.size, self.place = frames, size, 0
        self.z = torch.zeros(shape, **like)
        self.x = torch.zeros((states, *shape), **like)
        self.end = torch.zeros((states, *shape), **like)
        self.rows = torch.zeros(size, *prompts.rows.shape[1:], **like)
        self.counts = prompts.counts.new_ones(size)
        self.filled = torch.zeros((), device=like["device"])

    def add(self, z, states, ends, rows, counts):
        where = torch.arange(len(z), device=z.device) + self.place
        where %= self.size
        self.z[where] = z.bfloat16()
        for i, (x, end) in enumerate(zip(states, ends)):
            self.x[i, where] = x.bfloat16()
            self.end[i, where] = end.bfloat16()
        self.rows[where], self.counts[where] = rows.bfloat16(), counts
        self.place = (self.place + len(z)) % self.size
        self.filled.copy_((self.filled + len(z)).clamp(max=self.size))

    def batch(self, n):
        """Finished clips, states, ends (those of a timestep together), rows
        and counts of n lessons."""
        i = (torch.rand(n, device=self.z.device) * self.filled).long()
        i = torch.minimum(i, self.filled.long() - 1)
        return (self.z[i].float(), self.x[:, i].flatten(0, 1).float(),
                self.end[:, i].flatten(0, 1).float(), self.rows[i].float(),
                self.counts[i])


class Course:
    """Lessons of one length and the steps that learn from them."""

    def __init__(self, args, frames, batch, size, student, sigmas, timesteps,
                 optimiser, prompts, device):
        n, blocks = len(sigmas), frames // models.BLOCK
        # A fill must not overwrite itself, nor the ring hold less than it.
        self.fill = min(args.fill * batch, size)
        self.frames, self.count, self.device = frames, batch, device
        self.lessons = Lessons(size, frames, n, prompts)
        self.student, self.optimiser = student, optimiser
        self.sums = torch.zeros(n + 1, device=device)
        self.sigma = torch.tensor(sigmas, device=device).repeat_interleave(
            batch).view(-1, 1, 1, 1, 1)
        self.times = torch.tensor(timesteps, device=device).float(
            ).repeat_interleave(batch).view(-1, 1).repeat(1, blocks)
        self.learn = machine.Replay(self.gradient, device, args.eager)
        tokens = batch * frames * models.FRAME_TOKENS
        self.flops = 3 * models.forward_flops(
            (n + (blocks > 1)) * tokens, models.causal_keys(frames))

    def gradient(self):
        n = self.count
        z, x, end, rows, counts = self.lessons.batch(n)
        copies = len(x) // n
        with machine.cast(self.device):
            context = models.text_context(self.student, rows, counts)
            past = None
            if self.frames > models.BLOCK:
                past = clean_pass(self.student, z, context)
            v, _ = models.dit_forward(
                self.student, x, self.times,
                models.repeat_context(context, copies), "blocks", past=past,
                tables=models.rope_table(0, self.frames, self.device))
        # The error of the end over sigma: late timesteps are less wrong, but
        # they are what is seen.
        error = (v * self.sigma - (x - end)).pow(2) / self.sigma
        error = error * models.object_weight(end)
        each = error.unflatten(0, (copies, n)).flatten(1).mean(1)
        self.optimiser.backward(each.sum())
        self.sums += torch.cat([each.detach(), torch.ones_like(each[:1])])


class School:
    """Teacher, student and the courses."""

    def __init__(self, args, teacher, student, prompts, device):
        self.args, self.teacher, self.student = args, teacher, student
        self.prompts, self.device = prompts, device
        self.timesteps = [int(t) for t in args.timesteps.split(",")]
        self.sigmas = [models.sigma_of(t) for t in self.timesteps]
        self.optimiser = Optimiser([student], lr=args.lr,
                                   adam_lr=0.5 * args.lr)
        self.mean = Average(self.optimiser, 0.995)
        self.move = machine.Replay(self.update, device, args.eager)
        shared = (student, self.sigmas, self.timesteps, self.optimiser,
                  prompts, device)
        self.first = Course(args, models.BLOCK, args.batch,
                            args.first_lessons, *shared)
        # As many tokens in a step as first blocks have.
        self.clip = Course(args, args.frames,
                           max(1, args.batch * models.BLOCK // args.frames),
                           args.clip_lessons, *shared)
        self.work = 0.0           # floating-point operations done

    def update(self):
        self.optimiser.update()
        self.mean.update()

    @torch.no_grad()
    def prepare(self, course, own):
        """New lessons; `own`: on the student's ground."""
        n, frames = course.fill, course.frames
        rows, counts = self.prompts.batch(n)
        teacher = self.teacher
        with machine.cast(self.device):
            if own:
                states = []
                context = models.text_context(self.student, rows, counts)
                # The many shapes of a roll are not worth compiling.
                compiled = models.RUN["block"]
                models.RUN["block"] = models.block_forward
                z = models.roll(self.student, context, frames,
                                self.timesteps, states=states)
                models.RUN["block"] = compiled
                heard = teacher.listen(z, rows, counts)
                ends = teacher.ends(states, self.sigmas, *heard)
            else:
                noise = torch.randn(n, *course.lessons.z.shape[1:],
                                    device=self.device)
                context, _ = teacher.listen(noise, rows, counts)
                states, z = teacher.path(self.sigmas, noise, context)
                ends = [z] * len(states)
        course.lessons.add(z, states, ends, rows, counts)
        walk = self.teacher.count
        if own:
            walk = sum(len(measure.ode_steps(walk, first=s)) - 1
                       for s in self.sigmas)
        forward = models.forward_flops(n * frames * models.FRAME_TOKENS,
                                       models.causal_keys(frames))
        self.work += forward * (walk * (1 + (teacher.guidance != 1))
                                + own * (len(self.sigmas) + 1))

    def round(self, course, own, factor):
        """Fills in new lessons, then learns from each `use` times."""
        self.prepare(course, own)
        self.optimiser.set_rate(factor)
        for _ in range(max(1, self.args.use * course.fill // course.count)):
            course.learn()
            machine.average(self.optimiser.grad)
            self.move()
            self.work += course.flops

    def shares(self, course):
        """Mean losses since the last call, one a timestep, as text."""
        *losses, n = course.sums.tolist()
        course.sums.zero_()
        return " ".join(f"{v / n:.4f}" for v in losses) if n else "-"


def train(args, school, text, clock):
    def store():
        school.mean.swap()
        if machine.rank() == 0:
            for folder in filter(None, (args.out, args.copy)):
                common.save(folder, "dit", school.student)
                common.save(folder, "text", text)
        school.mean.swap()

    since = 0.0, 0.0
    while clock.part() < 1:
        own = clock.part() >= args.own
        clip = own and clock.step % 4 < args.clip_rounds
        course = school.clip if clip else school.first
        school.round(course, own, rate_factor(clock.part()))
        clock.step += 1
        machine.synchronise()
        if clock.due("last_print", 10) or clock.step in (1, 2, 5):
            now = clock.elapsed(), school.work
            speed = (now[1] - since[1]) / (now[0] - since[0])
            since = now
            machine.say(f"distill {now[0]:6.1f} s round {clock.step} first "
                        f"{school.shares(school.first)} clip "
                        f"{school.shares(school.clip)} "
                        f"{speed / 1e12:.1f} TFLOP/s")
        if clock.due("last_save", 60):
            store()
    store()
    school.mean.swap()
    machine.say(f"distill: {clock.step} rounds, {machine.world()} processes, "
                f"{machine.memory()}")


def arguments():
    args = argparse.ArgumentParser()
    args.add_argument("--teacher", required=True,
                      help="folders of the flow model, commas between")
    args.add_argument("--student",
                      help="where the student goes on from; default: teacher")
    args.add_argument("--tokenizer", default=measure.SHAPES + "/tokenizer")
    args.add_argument("--out", required=True)
    args.add_argument("--copy", help="a second folder for the result")
    args.add_argument("--minutes", type=float, default=6)
    args.add_argument("--steps", type=int, default=0, help="rounds")
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--guidance", type=float, default=3.0)
    args.add_argument("--ode", type=int, default=16)
    args.add_argument("--own", type=float, default=0.2,
                      help="from this part of the run on, lessons are on the "
                      "student's ground")
    args.add_argument("--prompts", type=int, default=60000)
    args.add_argument("--batch", type=int, default=256)
    args.add_argument("--frames", type=int, default=39)
    args.add_argument("--clip-rounds", type=int, default=2,
                      help="of four rounds so many are on clips, the others "
                      "on first blocks, which decide what is seen")
    args.add_argument("--fill", type=int, default=4,
                      help="batches of new lessons in a round")
    args.add_argument("--use", type=int, default=4,
                      help="how often a lesson is used")
    args.add_argument("--first-lessons", type=int, default=16384)
    args.add_argument("--clip-lessons", type=int, default=768)
    args.add_argument("--lr", type=float, default=1e-3)
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
    (vae, dit, text), stats = common.load_nets(args.teacher, tokenizer.size,
                                               device)
    student = copy.deepcopy(dit)
    if args.student:
        common.load(args.student, "dit", student, device)
    for net in (vae, dit, text):
        net.requires_grad_(False)
    models.compile_small()
    prompts = Prompts(text, tokenizer, args.prompts, device)
    if device.type == "cuda":
        models.compile_block()
    teacher = Teacher(dit, train_joint.empty_rows(text, device),
                      args.guidance, args.ode)
    torch.manual_seed(machine.SEED + 5 + machine.rank())
    clock = machine.Clock(args.minutes, args.steps, every=1)
    train(args, School(args, teacher, student, prompts, device), text, clock)
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
