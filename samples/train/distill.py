"""Stage 4: the causal flow model becomes a few-step CausVid model.

    python3 distill.py --checkpoints FOLDER --tokenizer TOKENIZER \\
        --out FOLDER --minutes 5 --timesteps 1000,757,522,250

ODE regression as in the CausVid paper: the teacher (the flow model, frozen)
integrates every block from noise to data, given the blocks before it; the
student learns to jump from the listed timesteps of that path to its end. Half
of the clips give true earlier blocks as context, the other half what the
student itself has just generated, so that it learns from its own mistakes.
"""
import argparse
import copy

import torch

import common
import measure
import models
import train_dit
from tokenizer import Tokenizer


@torch.no_grad()
def trajectory(teacher, context, past, shape, sigmas, count, tables, device,
               empty=None, guidance=1.0):
    """x at each of `sigmas` and the end of the path, for all blocks at once.

    `sigmas` falls from 1; between two of them the Euler steps are evenly
    spaced, `count` in all.
    """
    batch, parts = shape[0], shape[2] // models.BLOCK
    x = torch.randn(shape, device=device)
    points = []
    stops = list(sigmas) + [0.0]
    for now, after in zip(stops[:-1], stops[1:]):
        points.append(x)
        n = max(2, round(count * (now - after)))
        line = torch.linspace(now, after, n + 1).tolist()
        for a, b in zip(line[:-1], line[1:]):
            t = torch.full((batch, parts), 1000 * a, device=device)
            v, _ = models.dit_forward(teacher, x, t, context, "blocks",
                                      past=past, tables=tables)
            if empty is not None:
                u, _ = models.dit_forward(teacher, x, t, empty[0], "blocks",
                                          past=empty[1], tables=tables)
                v = u + guidance * (v - u)
            x = x + (b - a) * v
    return points, x


def clean_pass(dit, z, context, tables):
    zero = torch.zeros(len(z), z.shape[2] // models.BLOCK, device=z.device)
    return models.dit_forward(dit, z, zero, context, "blocks",
                              tables=tables)[1]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--checkpoints", required=True)
    args.add_argument("--tokenizer", required=True)
    args.add_argument("--out", required=True)
    args.add_argument("--copy")
    args.add_argument("--minutes", type=float, default=5)
    args.add_argument("--encode-seconds", type=float, default=12)
    args.add_argument("--clips", type=int, default=8000)
    args.add_argument("--batch", type=int, default=64)
    args.add_argument("--first", type=int, default=640,
                      help="extra first blocks in a batch")
    args.add_argument("--frames", type=int, default=21)
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--ode", type=int, default=20)
    args.add_argument("--guidance", type=float, default=1.0)
    args.add_argument("--own", type=float, default=0.3,
                      help="from this part of the run on, half of the clips "
                      "give the student's own blocks as context")
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--lr", type=float, default=1e-3)
    args.add_argument("--count", type=int, default=1000)
    args.add_argument("--long", type=int, default=64)
    args.add_argument("--sheet")
    args = args.parse_args()
    device = common.setup()
    tokenizer = Tokenizer(args.tokenizer)
    (vae, teacher, text), stats = measure.load_nets(
        args.checkpoints, args.tokenizer, device)
    student = copy.deepcopy(teacher)
    teacher.requires_grad_(False)
    text.requires_grad_(False)
    models.compile_small()
    latents = common.Latents(vae, stats, tokenizer, args.clips, device,
                             args.encode_seconds, seed=common.SEED + 1,
                             frames=4 * args.frames - 3)
    if device.type == "cuda":
        models.compile_block()
    timesteps = [int(t) for t in args.timesteps.split(",")]
    sigmas = [models.sigma_of(t) for t in timesteps]
    optimiser = common.Optimiser([student], lr=args.lr,
                                 adam_lr=0.5 * args.lr)
    average = common.Average([student], 0.99)
    clock = common.Clock(args.minutes, args.steps)
    tables = models.rope_table(0, args.frames, device)
    head = models.rope_table(0, models.BLOCK, device)
    losses = []
    none = torch.zeros(1, 47, dtype=torch.long, device=device)
    none[:, 0] = 1

    def conditions(net, ids, counts):
        rows = models.text_rows(text, ids, counts)
        return models.text_context(net, rows, counts)

    def learn(points, end, context, past, tables, parts):
        """One step for each timestep of the path."""
        for t, s, x in zip(timesteps, sigmas, points):
            times = torch.full((len(x), parts), float(t), device=device)
            with common.cast(device):
                ctx, clean = context(), past()
                v, _ = models.dit_forward(student, x, times, ctx, "blocks",
                                          past=clean, tables=tables)
            loss = (v - (x - end) / s).pow(2).mean()
            # Late timesteps divide by a small sigma: keep them comparable.
            (loss * s).backward()
            optimiser.step(common.rate_factor(clock.part()))
            losses.append(loss.detach())
        average.update()

    while clock.part() < 1:
        # First blocks need most of the learning: a whole clip's later
        # blocks follow from the earlier ones.
        if clock.step % 3 == 2 or not args.first:
            z, ids, counts = latents.batch(args.batch, args.frames)
            with common.cast(device), torch.no_grad():
                own = clock.part() > args.own
                if own:
                    half = args.batch // 2
                    compiled = models.RUN["block"]
                    models.RUN["block"] = models.block_forward
                    ctx = conditions(student, ids[:half], counts[:half])
                    z[:half] = models.roll(student, ctx, args.frames,
                                           timesteps)
                    models.RUN["block"] = compiled
                z = train_dit.dirty(z, 0.1)
                ctx_t = conditions(teacher, ids, counts)
                past_t = clean_pass(teacher, z, ctx_t, tables)
                empty = None
                if args.guidance != 1:
                    ctx_e = conditions(teacher, none.expand(len(ids), -1),
                                       torch.ones_like(counts))
                    empty = (ctx_e, clean_pass(teacher, z, ctx_e, tables))
                points, end = trajectory(teacher, ctx_t, past_t, z.shape,
                                         sigmas, args.ode, tables, device,
                                         empty, args.guidance)
            learn(points, end, lambda: conditions(student, ids, counts),
                  lambda: clean_pass(student, z, conditions(
                      student, ids, counts), tables),
                  tables, args.frames // models.BLOCK)
        if args.first:
            _, ids, counts = latents.batch(args.first, models.BLOCK)
            shape = (args.first, 16, models.BLOCK, *latents.z.shape[3:])
            with common.cast(device), torch.no_grad():
                ctx_t = conditions(teacher, ids, counts)
                empty = None
                if args.guidance != 1:
                    empty = (conditions(teacher, none.expand(len(ids), -1),
                                        torch.ones_like(counts)), None)
                points, end = trajectory(teacher, ctx_t, None, shape, sigmas,
                                         args.ode, head, device, empty,
                                         args.guidance)
            learn(points, end, lambda: conditions(student, ids, counts),
                  lambda: None, head, 1)
        clock.step += 1
        if clock.due("last_print", 10) or clock.step in (1, 2, 5):
            n = len(timesteps)
            mean = [torch.stack(losses[i::n]).mean().item()
                    for i in range(n)]
            print(f"distill {clock.elapsed():6.1f} s round {clock.step} "
                  "loss " + " ".join(f"{v:.4f}" for v in mean), flush=True)
            losses.clear()
        if clock.due("last_save", 60):
            average.swap()
            store(args, student, text)
            average.swap()
    average.swap()
    store(args, student, text)
    print(f"distill: {clock.step} rounds", flush=True)

    models.RUN["block"] = models.block_forward
    # What is measured is what is stored: weights rounded to bfloat16.
    common.load(args.out, "dit", student, device)
    nets = (vae, student, text)
    prompts = measure.read_prompts()[:args.count]
    words = [p["prompt"] for p in prompts]
    for steps in dict.fromkeys((tuple(timesteps), tuple(timesteps[:-1]),
                                (timesteps[0], *timesteps[2:]))):
        some = len(words) if len(steps) == len(timesteps) else 128
        clips = measure.generate(nets, stats, tokenizer, words[:some],
                                 args.frames, list(steps), device)
        measure.report(prompts[:some], measure.measure_all(clips),
                       f"student {steps}", 6)
        if args.sheet and len(steps) == len(timesteps):
            measure.sheet(clips[-24:], args.sheet)
    if args.long:
        prompts, words = prompts[:args.long], words[:args.long]
        clips = measure.generate(nets, stats, tokenizer, words, 123,
                                 timesteps, device, keep_last=20)
        measure.report(prompts, measure.measure_all(clips),
                       "30 s, last 5 s", 6)
        if args.sheet:
            measure.sheet(clips[:24], args.sheet.replace(".png", "-30.png"))


def store(args, student, text):
    for folder in filter(None, (args.out, args.copy)):
        common.save(folder, "dit", student)
        common.save(folder, "text", text)


if __name__ == "__main__":
    main()
