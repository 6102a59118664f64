"""Single operations beside PyTorch's: cuBLAS, cuDNN's attention, cuDNN's
convolutions. A stage of peer.py.

SPDX-License-Identifier: BSD-2-Clause

`test_ops --bench --json` says what shapes there are and how long ours take;
PyTorch then does the same shapes on the same GPU, and each side's figure is the
best of some tenths of a second with the device waited for after each call. Both
have bf16 numbers on the GPU.

PyTorch's linear is the product with its bias alone: where ours also applies a
GELU or adds to the residual stream, that is extra work of ours. Convolutions
are taken in the faster of PyTorch's two layouts, with cudnn.benchmark; the
frames of the history come with the input, and doubled ones are
nearest-neighbour interpolation and a convolution, as the official code has it.
Norms and pictures have no counterpart in these libraries.

kernel_targets.tsv says what operations are to reach on one kind of GPU.
"""
import contextlib
import json
import os
import re
import subprocess
import time

import torch
import torch.nn.functional as F

SECONDS = 0.15 # for each figure, at least

LINEAR = re.compile(r"\[(\d+), (\d+)\] x \[(\d+), \d+\]")
ATTENTION = re.compile(r"(\d+) x (\d+), (\d+) heads?(?: of (\d+))?")
CONV = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\] -> (\d+), (\d+)x(\d+)x\d+")


# What test_ops runs on a GPU: the backend's name, more arguments. Builds that
# do not have one of the later ones say so and are not asked for it.
BACKENDS = (("cuda bf16", []), ("cuda fp8", ["--op", "linear"]),
            ("cuda 8-bit attention", ["--op", "attention8"]))


def test_ops(args, *arguments):
    program = args.with_test_ops or os.path.join(
        os.path.dirname(args.with_causvid), "..", "tests", "ops", "test_ops")
    env = dict(os.environ)
    if "CAUSVID_LIBRARY_PATH" in env:
        env["LD_LIBRARY_PATH"] = env["CAUSVID_LIBRARY_PATH"]
    done = subprocess.run([program, "--bench", "--json", *arguments], env=env,
                          stdout=subprocess.PIPE, text=True, check=True,
                          timeout=args.limit)
    return [json.loads(line) for line in done.stdout.splitlines()
            if line.startswith("{")]


def ours(args):
    """Rows of test_ops; what computes in 8 bits has an 8 in its name."""
    if args.device != "cuda":
        return test_ops(args)
    rows = []
    for name, more in BACKENDS:
        try:
            found = test_ops(args, "--gpu", "--backend", name, *more)
        except subprocess.CalledProcessError:
            if not rows: # of bf16, which every build has
                raise
            continue
        for row in found if rows else []:
            row["op"] = re.sub(r"^(linear|attention)(?!8).*", r"\g<1>8",
                               row["op"])
            row["shape"] = row["shape"].replace("fp8 ", "", 1)
        rows += [row for row in found
                 if not rows or row["op"] in ("linear8", "attention8")]
    return rows


class Theirs:
    def __init__(self, peer):
        self.peer, self.gpu = peer, peer.device == "cuda"

    def random(self, *shape):
        return torch.randn(*shape, device=self.peer.device).to(
            self.peer.dtype)

    def best(self, function):
        function()
        self.peer.wait()
        out, began = float("inf"), time.perf_counter()
        while time.perf_counter() - began < SECONDS or out == float("inf"):
            start = time.perf_counter()
            function()
            self.peer.wait()
            out = min(out, time.perf_counter() - start)
        return out

    def linear(self, n, i, o):
        x, w, b = self.random(n, i), self.random(o, i), self.random(o)
        return (self.best(lambda: F.linear(x, w, b)),
                "cuBLAS" if self.gpu else "PyTorch")

    def attention(self, n, m, heads, d):
        q, k, v = (self.random(1, rows, heads, d).transpose(1, 2)
                   for rows in (n, m, m))

        def attend():
            return F.scaled_dot_product_attention(q, k, v)

        if self.gpu and not self.peer.no_cudnn:
            with self.peer.cudnn_attention():
                with contextlib.suppress(RuntimeError): # heads of 384
                    return self.best(attend), "cuDNN"
        return self.best(attend), "PyTorch"

    def conv(self, shape, t, h, w, c, o, kt, k):
        doubled = "doubled" in shape
        if kt == 1: # pictures on their own
            x, weight = self.random(t, c, h, w), self.random(o, c, k, k)
            layouts, run = (torch.contiguous_format,
                            torch.channels_last), F.conv2d
            padding = k // 2
        else:
            x = self.random(1, c, t + kt - 1, h, w)
            weight = self.random(o, c, kt, k, k)
            layouts, run = (torch.contiguous_format,
                            torch.channels_last_3d), F.conv3d
            padding = (0, k // 2, k // 2)
        bias, best = self.random(o), None
        for layout in layouts:
            a, b = x.to(memory_format=layout), weight.to(memory_format=layout)

            def convolve(a=a, b=b):
                y = (F.interpolate(a, scale_factor=2.0, mode="nearest-exact")
                     if doubled else a)
                return run(y, b, bias, padding=padding)

            seconds = self.best(convolve)
            if best is None or seconds < best[0]:
                best = seconds, ("cuDNN" if self.gpu else "PyTorch") + (
                    "" if layout == torch.contiguous_format else
                    ", channels last")
        return best

    def same(self, row):
        """(seconds, by what) of the row's shape, or None."""
        op, shape = row["op"], row["shape"]
        numbers = [re.search(p, shape) for p in (LINEAR, ATTENTION, CONV)]
        numbers = [m and [int(n or 128) for n in m.groups()]
                   for m in numbers]
        if op == "product":
            n = int(shape.split()[0])
            return self.linear(n, n, n)
        if op.startswith("linear") and numbers[0]:
            return self.linear(*numbers[0])
        if op.startswith("attention") and numbers[1]:
            return self.attention(*numbers[1])
        if op.startswith("conv3d") and numbers[2]:
            return self.conv(shape, *numbers[2])
        return None


def figures(rate, unit):
    """A rate as it is read best."""
    if unit not in ("GFLOP/s", "GB/s", "Gpixel/s"):
        return "-"
    if unit[1] != "p" and rate >= 1e12:
        return f"{rate / 1e12:.{0 if rate >= 1e14 else 2}f} T{unit[1:]}"
    return f"{rate / 1e9:.1f} {unit}"


def read_targets(device):
    """[op, beginning of the shape, TFLOP/s] for this device."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                        "kernel_targets.tsv")
    with open(path, encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f
                if line.strip() and line[0] != "#"]
    return [[op, shape, float(tflops)] for gpu, op, shape, tflops in rows[1:]
            if gpu in device]


def judge(targets, row):
    """(words, whether it is reached) of a figure of ours; a target that was
    found is taken off the list."""
    for target in targets:
        if target[0] == row["op"] and row["shape"].startswith(target[1]):
            targets.remove(target)
            good = row["work"] / row["seconds"] >= target[2] * 1e12
            return (f"{target[2]:g} TFLOP/s: "
                    f"{'pass' if good else 'FALLS SHORT'}"), good
    return "-", True


def table(peer, args):
    """(The head, then a row for each figure of ours; what was missed.) Records
    each figure."""
    rows = [["operation", "shape", "causvid", "rate", "of ceiling", "PyTorch",
             "rate", "faster", "by", "target"]]
    device = torch.cuda.get_device_name() if peer.device == "cuda" else "CPU"
    theirs, targets, missed = Theirs(peer), read_targets(device), []
    torch.backends.cudnn.benchmark = True
    for row in ours(args):
        found = None
        with contextlib.suppress(torch.OutOfMemoryError):
            found = theirs.same(row)
        peer.free()
        own, work = row["seconds"], row["work"]
        cells = [row["op"], row["shape"], f"{own * 1e3:.3f} ms",
                 figures(work / own, row["unit"]),
                 f"{100 * row['share']:.0f} %" if row["share"] else "-"]
        if found:
            cells += [f"{found[0] * 1e3:.3f} ms",
                      figures(work / found[0], row["unit"]),
                      f"{found[0] / own:.2f} x", found[1]]
            row.update(peer_seconds=found[0], peer=found[1])
        else:
            cells += ["-"] * 4
        verdict, good = judge(targets, row)
        if not good:
            missed.append(f"{row['op']} {row['shape']}")
        args.record({"kernel": row})
        rows.append(cells + [verdict])
    rows += [[op, shape] + ["-"] * 7 + [f"{tflops:g} TFLOP/s: not measured"]
             for op, shape, tflops in targets]
    torch.backends.cudnn.benchmark = False
    return rows, missed
