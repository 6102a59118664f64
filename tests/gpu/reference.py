#!/usr/bin/env python3
"""causvid on a GPU beside PyTorch: the networks at their real widths and whole
clips, with the same random weights and the same noise.

SPDX-License-Identifier: BSD-2-Clause

Two models (models.py): "causal", the 1.3B transformer with 30 layers, 3 steps
and blocks of 3 latents; "wide", some layers of the 14B one, 2 steps over all
tokens at once. Both have UMT5-XXL (some layers) and the Wan VAE. `causvid
trace` runs them; then PyTorch in float32 (no TF32), which is the reference,
and PyTorch in bf16 as users run it.

A network is compared on its own: PyTorch gets the inputs that ours had (its
text embedding, its latents). A clip is compared as a whole: each side goes its
own way from token ids and noise. Errors are |a - b| / |b| over all values.

  bf16  passes with at most 1.25 times the error of PyTorch's bf16;
  fp32  with at most 1e-4 for a network, 1e-3 for a clip, in which both sides'
        rounding grows from step to step;
  the same bf16 run twice must write the same bytes.

The program is causvid in CAUSVID_BUILD (default: build), run with
LD_LIBRARY_PATH=CAUSVID_LIBRARY_PATH where that is set. `--scale tiny` shows
within a minute and without a GPU that all of it works.
"""
import argparse
import filecmp
import os
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file, save_file

import models
from networks import Reference

BF16_RATIO = 1.25
FP32_NETWORK, FP32_CLIP = 1e-4, 1e-3
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("CAUSVID_SRC", os.path.join(HERE, "..", ".."))
BUILD = os.environ.get("CAUSVID_BUILD", os.path.join(SOURCE, "build"))


def say(*words):
    print(*words, flush=True)


def error(a, b):
    if a.shape != b.shape:
        return float("inf")
    difference = size = 0.0
    for x, y in zip(a.float().split(8), b.float().split(8)):
        x, y = x.double(), y.double()
        difference += float((x - y).square().sum())
        size += float(y.square().sum())
    return (difference / size) ** 0.5 if size else float("inf")


class Table:
    """Rows of the result, and whether all of them pass."""

    def __init__(self):
        self.rows, self.seconds, self.passed = [], [], True

    def add(self, model, what, precision, ours, theirs, bar):
        """`theirs` is PyTorch's error, None where the bar is absolute."""
        measured = ours if theirs is None else ours / max(theirs, 1e-30)
        # No error at all, or one as large as the values, is no measure.
        good = measured <= bar and (theirs is None or 0 < theirs < 0.5)
        self.passed &= good
        self.rows.append((
            model, what, precision, f"{ours:.2e}",
            f"{theirs:.2e}" if theirs is not None else "-",
            f"{measured:.3f}" if theirs is not None else "-",
            f"{bar:g}" + (" x" if theirs is not None else ""),
            "pass" if good else "FALLS SHORT"))

    def check(self, model, what, precision, good):
        self.passed &= good
        self.rows.append((model, what, precision, "-", "-", "-", "-",
                          "pass" if good else "FALLS SHORT"))

    @staticmethod
    def columns(head, rows):
        rows = [head] + rows
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        for row in rows:
            say("  " + "  ".join(cell.ljust(width) for cell, width
                                 in zip(row, widths)).rstrip())

    def print(self):
        say("\nErrors against PyTorch in float32:")
        self.columns(("model", "what", "precision", "ours", "PyTorch",
                      "ratio", "bar", ""), self.rows)
        say("\nSeconds (PyTorch's include its first calls, ours are of the "
            "whole program with loading\nand writing; no benchmark):")
        self.columns(("model", "what", "precision", "seconds"), self.seconds)


# ------------------------------------------------------------------ our side


class Ours:
    def __init__(self, args, table):
        self.args, self.table = args, table

    def run(self, name, folder, precision, inputs, output):
        """`causvid trace`; output is the path of the file that it writes."""
        program = os.path.join(BUILD, "bin", "causvid")
        command = [program, "trace", "--model", folder, "--inputs", inputs,
                   "--outputs", output, "--device", self.args.device]
        if precision != "auto":
            command += ["--precision", precision]
        env = dict(os.environ)
        if "CAUSVID_LIBRARY_PATH" in env:
            env["LD_LIBRARY_PATH"] = env["CAUSVID_LIBRARY_PATH"]
        if os.path.exists(output):
            os.remove(output)
        say(" ", " ".join(command))
        began = time.monotonic()
        status = subprocess.run(command, env=env).returncode
        self.table.seconds.append((name, "causvid trace", precision,
                                   f"{time.monotonic() - began:.1f}"))
        if status:
            raise RuntimeError(f"causvid trace ended with status {status}")


# ------------------------------------------------------------------- a model


def references(reference, inputs, got, window):
    """The networks on our inputs, the clip on its own."""
    embeds = reference.text(inputs["token_ids"])
    out = {"text encoder": embeds,
           "transformer": reference.first_flow(inputs["noise"],
                                               got["text_embeds"]),
           "VAE": reference.decode(got["latents"])}
    out["clip, latents"] = reference.clip(inputs, embeds, window)
    out["clip, frames"] = reference.decode(out["clip, latents"])
    return out


OURS = {"text encoder": "text_embeds", "transformer": "flow.0.0",
        "VAE": "frames", "clip, latents": "latents", "clip, frames": "frames"}


def describe(frames):
    clipped = float(((frames == 0) | (frames == 1)).float().mean())
    deviation = float(frames.std())
    say(f"  frames {tuple(frames.shape)}: deviation {deviation:.3f}, "
        f"{100 * clipped:.0f} % clipped")
    if not (deviation > 0.02 and clipped < 0.5):
        raise RuntimeError("the random VAE's frames are flat or clipped: they "
                           "would hide errors")


def torch_run(args, table, name, folder, dtype, runs):
    """`references` of several (inputs, ours) in one precision."""
    reference = Reference(folder, name, dtype, args.torch)
    window = models.SCALES[args.scale]["window"]
    out = [references(reference, inputs, got, window) for inputs, got in runs]
    for what, seconds in reference.seconds.items():
        table.seconds.append((name, "PyTorch: " + what,
                              "fp32" if dtype == torch.float32 else "bf16",
                              f"{seconds:.1f}"))
    del reference
    if args.torch == "cuda":
        torch.cuda.empty_cache()
    return out


def check_model(args, table, name):
    scale = models.SCALES[args.scale]
    layers = {"text": args.text_layers, "wide": args.wide_layers,
              "causal": args.causal_layers}
    layers = {k: v or scale["layers"][k] for k, v in layers.items()}
    say(f"\n== {name}: {layers[name]} layers, UMT5 with {layers['text']}")
    began = time.monotonic()
    folder = models.make_model(
        args.work, name, args.scale, args.torch, layers,
        os.path.join(SOURCE, "samples", "shapes", "tokenizer",
                     "spiece.model"))
    if args.torch == "cuda":
        torch.cuda.empty_cache()
    table.seconds.append((name, "write the model", "bf16",
                          f"{time.monotonic() - began:.1f}"))

    def path(kind, run):
        return os.path.join(args.work, f"{name}-{kind}-{run}.safetensors")

    # Whole clips in bf16, twice; a short one in float32. The CPU backend has
    # only float32: then that is the whole clip.
    ours, inputs, got = Ours(args, table), {}, {}
    short = "auto" if args.device == "cpu" else "fp32"
    for run, latents in (("bf16", scale["latents"]),
                         (short, scale["short"][name])):
        if run == "bf16" and args.device == "cpu":
            continue
        inputs[run] = models.make_inputs(name, args.scale, latents)
        save_file(inputs[run], path("inputs", run))
        ours.run(name, folder, run, path("inputs", run), path("ours", run))
        got[run] = load_file(path("ours", run))
        describe(got[run]["frames"])
    if "bf16" in got:
        ours.run(name, folder, "bf16", path("inputs", "bf16"),
                 path("ours", "again"))
        table.check(name, "the same bytes again", "bf16",
                    filecmp.cmp(path("ours", "bf16"), path("ours", "again"),
                                shallow=False))
        os.remove(path("ours", "again"))

    # PyTorch, one precision after the other: one model at a time in memory.
    runs = list(got)
    want = dict(zip(runs, torch_run(args, table, name, folder, torch.float32,
                                    [(inputs[r], got[r]) for r in runs])))
    if "bf16" in got:
        theirs = torch_run(args, table, name, folder, torch.bfloat16,
                           [(inputs["bf16"], got["bf16"])])[0]
        for what, tensor in OURS.items():
            table.add(name, what, "bf16",
                      error(got["bf16"][tensor], want["bf16"][what]),
                      error(theirs[what], want["bf16"][what]), BF16_RATIO)
    for what, tensor in OURS.items():
        table.add(name, what, "fp32", error(got[short][tensor],
                                            want[short][what]), None,
                  FP32_CLIP if what.startswith("clip") else FP32_NETWORK)


# ---------------------------------------------------------------------- main


def check_float32(device):
    """Attention and products of float32 tensors must be float32, or the
    reference is none."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    q, k, v = torch.randn(3, 1, 2, 512, 128, device=device)
    attention = torch.nn.functional.scaled_dot_product_attention
    x = torch.randn(1, 64, 3, 16, 16, device=device)
    w = torch.randn(64, 64, 3, 3, 3, device=device)
    for what, function, values in (
            ("attention", attention, (q, k, v)),
            ("matmul", torch.matmul, (q[0, 0], k[0, 0].T)),
            ("conv3d", torch.nn.functional.conv3d, (x, w))):
        exact = function(*[value.double() for value in values])
        e = error(function(*values), exact)
        say(f"PyTorch's float32 {what}: error {e:.1e}")
        if not e < 1e-5:
            raise RuntimeError("PyTorch's float32 is not float32")


def check_models(args, check):
    """check(args, table, name) of each of --models; the exit status."""
    args.torch = args.torch or ("cuda" if torch.cuda.is_available() else
                                "cpu")
    args.work = os.path.abspath(args.work)
    os.makedirs(args.work, exist_ok=True)
    say(f"PyTorch {torch.__version__} on",
        torch.cuda.get_device_name() if args.torch == "cuda" else "the CPU")
    check_float32(args.torch)
    table = Table()
    for name in args.models.split(","):
        try:
            check(args, table, name)
        except (RuntimeError, OSError, torch.OutOfMemoryError) as e:
            say(f"{name}: {e}")
            table.check(name, "ran to its end", "", False)
    table.print()
    return 0 if table.passed else 1


def main():
    parser = argparse.ArgumentParser(
        description="causvid on a GPU beside PyTorch, with random models")
    parser.add_argument("--scale", default="full", choices=models.SCALES)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"),
                        help="of causvid")
    parser.add_argument("--torch", choices=("cuda", "cpu"),
                        help="of PyTorch; default: cuda where there is one")
    parser.add_argument("--models", default="causal,wide",
                        help="some of causal,wide")
    parser.add_argument("--text-layers", type=int, default=0,
                        help="of UMT5-XXL, whose 24 take 12 GB of disk; 4")
    parser.add_argument("--causal-layers", type=int, default=0, help="30")
    parser.add_argument("--wide-layers", type=int, default=0,
                        help="of the 14B transformer, whose 40 take 28 GB; 4")
    parser.add_argument("--size", metavar="WxH", help="of the frames")
    parser.add_argument("--latents", type=int, default=0,
                        help="latent frames, a multiple of 3; 21")
    parser.add_argument("--work", default="causvid-reference",
                        help="folder for models and traces: 12 GB by default;"
                        " models that are there are taken as they are")
    args = parser.parse_args()
    scale = models.SCALES[args.scale]
    if args.size:
        scale["size"] = tuple(int(n) for n in args.size.split("x"))
    if args.latents:
        scale["latents"] = args.latents
        scale["short"] = {k: min(n, args.latents) for k, n in
                          scale["short"].items()}
    return check_models(args, check_model)


if __name__ == "__main__":
    sys.exit(main())
