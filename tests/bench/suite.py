#!/usr/bin/env python3
"""The whole benchmark in one command: clips of all models, precisions, numbers
of steps and sizes; what they were to take; a chart. `make bench` runs it.

SPDX-License-Identifier: BSD-2-Clause

    python3 tests/bench/suite.py --causvid build/bin/causvid --set short

Each case is one run of `causvid bench --json` with random weights of the real
shapes. Its line of JSON goes to OUT/results.jsonl as soon as it is there; from
these lines come the tables (printed, and as Markdown in OUT/report.md), the
targets of targets.tsv with "pass" or "falls short", and the chart
(OUT/chart.svg, by chart.py). --report makes them again from the file.

A case that the engine refuses to run is skipped with the engine's line. With
--budget a case that would not end in time is left out; how long it would take
is reckoned from its work and the rates seen so far. --resume goes on where a
run with the same results ended.

Exit status: 0 when every case ran or was skipped and every target that was
measured is reached, 1 otherwise. Needs Python 3.8 and nothing else; where
PyTorch sees the GPU (--python), the ceilings of cuBLAS are measured too, and
with --peer all the networks and operations are held beside it (OUT/peer.md).
"""
import argparse
import json
import os
import subprocess
import sys
import time

import chart

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZER = os.path.join(HERE, "..", "..", "samples", "shapes", "tokenizer")
SIZES = {"480p": "832x480", "720p": "1280x720", "tiny": "64x48",
         "small": "96x64"}

# width, FFN's width, layers: for reckoning only
SHAPES = {"wan-1.3b": (1536, 8960, 30), "wan-14b": (5120, 13824, 40),
          "tiny": (256, 512, 2)}


def say(*words):
    print(*words, flush=True)


# ------------------------------------------------------------------ the cases


def case(model, precision, steps, size, runs=1, vram="-", frames=81):
    return {"model": model, "precision": precision, "steps": steps,
            "size": size, "vram": vram, "frames": frames, "runs": runs}


def name_of(c):
    words = [c["model"], c["precision"],
             f"{c['steps']} step" + "s" * (str(c["steps"]) != "1"), c["size"]]
    return " ".join(words + ([f"vram={c['vram']}"] if c["vram"] != "-" else
                             []))


FAMILIES = (("wan-1.3b-causal", ("bf16", "fp8")),
            ("wan-14b", ("bf16",)), ("wan-14b-fp8", ("fp8", "bf16")),
            ("wan-1.3b", ("bf16", "fp8")))


def headline(runs, files):
    """What targets.tsv asks for, the most wanted first."""
    for precision in ("bf16", "fp8"):
        yield case("wan-1.3b-causal", precision, 3, "480p", max(3, runs))
    yield case("wan-14b", "bf16", 6, "480p", runs)
    yield case("wan-14b-fp8", "fp8", 6, "480p", runs)
    if "file-14b" in files:
        yield case("file-14b", "bf16", 6, "480p")
    if "file-14b-fp8" in files:
        yield case("file-14b-fp8", "fp8", 6, "480p")
    # Limits under which the text encoder is streamed, and little is left over.
    yield case("wan-14b", "bf16", 1, "480p", vram="36G")
    yield case("wan-14b-fp8", "fp8", 1, "480p", vram="20G")
    yield case("wan-1.3b-causal", "bf16", 3, "480p", vram="14G")
    yield case("wan-1.3b-causal", "fp8", 3, "480p", vram="12G")


def sweep(steps, sizes, runs, families=FAMILIES):
    for size in sizes:
        for n in steps:
            for model, precisions in families:
                for precision in precisions:
                    yield case(model, precision, n, size, runs)


def cases_of(which, files):
    if which == "tiny": # to try all of this on any machine
        for size in ("tiny", "small"):
            for n in (3, 6, 9):
                yield case("tiny-causal", "fp32", n, size, frames=9)
                yield case("tiny", "fp32", n, size, 2, frames=9)
        yield case("tiny", "fp8", 3, "tiny", frames=9)
        return
    yield from headline(1 if which == "short" else 2, files)
    if which == "short":
        yield from sweep((6, 9), ("480p",), 1, FAMILIES[:1])
        yield from sweep((3, 9), ("480p",), 1, FAMILIES[1:2])
        yield from sweep((3,), ("480p",), 1, FAMILIES[2:])
        yield from sweep((3,), ("720p",), 1, FAMILIES[:1])
        return
    yield from sweep(range(3, 10), ("480p",), 1)
    yield from sweep((3, 6, 9), ("720p",), 1)


def work(c):
    """FLOP of a clip's denoising steps, as causvid bench counts them."""
    name = c["model"].replace("file-", "wan-").replace("-causal", "")
    d, ffn, layers = SHAPES[name.replace("-fp8", "")]
    width, height = (int(n) for n in SIZES[c["size"]].split("x"))
    latents = (c["frames"] - 1) // 4 + 1
    causal = c["model"].endswith("-causal")
    latents_seen = latents / 2 + 1.5 if causal else latents
    frame = (width // 16) * (height // 16)
    n = latents * frame
    attention = 2 * n * (latents_seen * frame + 512) * d
    return 2 * layers * (n * (6 * d * d + 2 * d * ffn) + attention) * (
        c["steps"] + (1 if causal else 0))


# ------------------------------------------------------------------ running


class Suite:
    def __init__(self, args):
        self.args, self.lines = args, []
        self.began = time.monotonic()
        # for PyTorch, at the end
        self.reserved = min(90.0, args.budget / 3) if (
            args.peer == "all") else 0
        self.rates = {}
        self.path = os.path.join(args.out, "results.jsonl")

    def seconds(self):
        return time.monotonic() - self.began

    def load(self):
        with open(self.path, encoding="utf-8") as f:
            self.lines = [json.loads(line) for line in f]

    def record(self, line):
        self.lines.append(line)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def estimate(self, c):
        """Seconds that a case takes: loading, the clips, VAE; None: no idea."""
        key = (c["model"].split("-fp8")[0], c["precision"])
        rate = self.rates.get(key) or self.rates.get(c["precision"])
        if not rate:
            rate = {"bf16": 400e12, "fp8": 500e12}.get(c["precision"])
        if not rate or c["model"].startswith("tiny"):
            return None
        area = 2.3 if c["size"] == "720p" else 1
        return 5 + (2 * c["runs"] + 1) * (work(c) / rate + 0.7 * area)

    def command(self, c):
        model = self.args.files.get(c["model"])
        causal = c["model"].endswith("-causal")
        if not model:
            model = "random:" + c["model"].replace("-causal", "")
        out = [self.args.causvid, "bench", "--format", "json", "--device",
               self.args.device, "--model", model,
               "--variant", "causal" if causal else "bidirectional",
               "--precision", c["precision"], "--steps", str(c["steps"]),
               "--size", SIZES[c["size"]], "--frames", str(c["frames"]),
               "--runs", str(c["runs"])]
        if model.startswith("random:"):
            out += ["--tokenizer", TOKENIZER]
            # The recipe of these models is a list of three timesteps.
            if "14b" not in model and c["steps"] != 3:
                out += ["--sampler", "euler"]
        if c["vram"] != "-":
            out += ["--vram", c["vram"]]
        return out

    def run(self, c):
        estimate = self.estimate(c)
        left = self.args.budget - self.seconds() - self.reserved
        if left <= 0 or (estimate or 0) > left:
            words = f"about {estimate:.0f} s" if estimate else "it"
            say(f"{name_of(c)}: SKIP, {words} would not fit into the budget")
            self.record(dict(c, skipped="the budget of time"))
            return
        limit = min(left + 30, max(120, 4 * estimate) if estimate else 600)
        env = dict(os.environ)
        if "CAUSVID_LIBRARY_PATH" in env:
            env["LD_LIBRARY_PATH"] = env["CAUSVID_LIBRARY_PATH"]
        began = time.monotonic()
        try:
            done = subprocess.run(self.command(c), env=env, text=True,
                                  stdout=subprocess.PIPE, timeout=limit,
                                  stderr=subprocess.PIPE)
            status, error = done.returncode, done.stderr.strip()
        except (OSError, subprocess.TimeoutExpired) as e:
            status, error, done = -1, str(e)[-200:], None
        took = time.monotonic() - began
        last = error.splitlines()[-1] if error else f"exit status {status}"
        if status:
            # What this engine or machine does not do is not a failure of it.
            refused = status in (1, 2) and any(
                words in last for words in ("precision", "of GPU memory"))
            say(f"{name_of(c)}: {'SKIP' if refused else 'FAILED'}, {last}")
            self.record(dict(c, **{"skipped" if refused else "failed": last}))
            return
        bench = json.loads(done.stdout.splitlines()[-1])
        family = (c["model"].split("-fp8")[0], c["precision"])
        self.rates[family] = bench["sampling_tflops"] * 1e12
        self.rates[c["precision"]] = self.rates[family]
        say(f"{name_of(c)}: {bench['denoised_s']:.3f} s sampling, "
            f"{bench['last_frame_s']:.3f} s to the last frame, "
            f"{bench['measured_gb']:.2f} GB ({took:.0f} s)")
        self.record(dict(c, bench=bench))

    def peer(self, stages):
        """PyTorch on the same GPU, where it is there; True when causvid was
        slower in something, or could not be compared."""
        log = os.path.join(self.args.out, "peer.jsonl")
        limit = min(900.0, self.args.budget - self.seconds())
        command = [self.args.python, os.path.join(HERE, "peer.py"),
                   "--torch", "cuda", "--stages", stages, "--markdown",
                   "--json", log]
        if stages != "ceilings":
            command += ["--with-causvid", self.args.causvid]
        if limit < 20:
            say("PyTorch: SKIP, it would not fit into the budget")
            return False
        probe = [self.args.python, "-c",
                 "import torch; assert torch.cuda.is_available()"]
        try:
            if subprocess.run(probe, capture_output=True).returncode:
                say(f"PyTorch: SKIP, {self.args.python} does not have it, or "
                    "it sees no GPU")
                return False
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True,
                                  timeout=limit)
            with open(log, encoding="utf-8") as f:
                self.record({"peer": json.loads(f.readline())})
        except (OSError, ValueError, subprocess.TimeoutExpired) as e:
            say(f"PyTorch: FAILED, {str(e)[-200:]}")
            return True
        if stages != "ceilings":
            say("\n" + done.stdout)
            with open(os.path.join(self.args.out, "peer.md"), "w",
                      encoding="utf-8") as f:
                f.write(done.stdout)
        return done.returncode != 0

    def run_all(self):
        os.makedirs(self.args.out, exist_ok=True)
        kept = []
        if self.args.resume and os.path.exists(self.path):
            self.load()
            kept = [l for l in self.lines if "bench" in l or "peer" in l]
        self.lines = []
        open(self.path, "w", encoding="utf-8").close()
        for entry in kept:
            self.record(entry)
        done = [name_of(line) for line in self.lines if "bench" in line]
        if self.args.peer == "ceilings" and not any(
                "peer" in entry for entry in self.lines):
            self.peer("ceilings")
        for c in cases_of(self.args.set, self.args.files):
            if name_of(c) not in done and all(
                    word in name_of(c) for word in self.args.only):
                self.run(c)
                done.append(name_of(c))
        if self.args.peer == "all":
            return self.peer("kernels" if self.args.set == "short" else
                             "text,1.3b,causal,vae,14b,kernels")
        return False


# ------------------------------------------------------------------ reports


def results_table(lines):
    rows = [("case", "sampling", "last frame", "continuous", "first frame",
             "process start", "frames/s", "memory", "TFLOP/s", "of ceiling")]
    for line in lines:
        if "bench" in line:
            b, share = line["bench"], "-"
            if "sampling_share" in b:
                share = f"{b['sampling_share']:.0f} %"
            digits = 0 if b["sampling_tflops"] > 9 else 3
            rows.append((
                name_of(line), f"{b['denoised_s']:.3f} s",
                f"{b['last_frame_s']:.3f} s", f"{b['continuous_s']:.3f} s",
                f"{b['first_frame_s']:.3f} s", f"{b['process_s']:.2f} s",
                f"{b['frames_per_s']:.1f}", f"{b['measured_gb']:.2f} GB",
                f"{b['sampling_tflops']:.{digits}f}", share))
    return rows


def read_targets(path):
    with open(path, encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f
                if line.strip() and line[0] != "#"]
    if any(len(row) != len(rows[0]) for row in rows):
        raise SystemExit(f"suite.py: '{path}': every row needs "
                         f"{len(rows[0])} fields")
    return [dict(zip(rows[0], row)) for row in rows[1:]]


def targets_table(lines, targets):
    """Rows, and how many targets were missed."""
    rows, short = [("target", "case", "at", "measured", "", "of ceiling",
                    "source")], 0
    lines = [line for line in lines if "model" in line]
    devices = [line["bench"]["device"] for line in lines if "bench" in line]
    for t in targets:
        if not any(t["gpu"] in device for device in devices):
            continue
        c = {k: t[k] for k in ("model", "precision", "steps", "size", "vram")}
        found = [line for line in lines
                 if all(str(line[k]) == c[k] for k in c)]
        got = [line["bench"] for line in found if "bench" in line]
        why = next((line.get("skipped") or line.get("failed")
                    for line in found if "bench" not in line), "")
        value, share, good = "-", "-", None
        if got:
            target, b = float(t["value"]), got[-1]
            value = b[t["key"]]
            good = value <= target if t["bar"] == "<=" else value >= target
            value = f"{value:.3f} {t['unit']}"
            if t["unit"] != "GB" and "sampling_share" in b:
                share = f"{b['sampling_share']:.0f} %"
        elif t["unit"] == "GB" and "of GPU memory" in why:
            value, good = "does not fit", False # what the engine planned
        short += good is False
        rows.append((t["what"], name_of(c),
                     f"{t['bar']} {t['value']} {t['unit']}", value,
                     "not measured" if good is None else
                     "pass" if good else "FALLS SHORT", share, t["source"]))
    return rows, short


def facts(lines):
    seen = []
    for line in lines:
        if "bench" in line:
            b = line["bench"]
            # As the command that ran says the device of its own precision:
            fact = [f"causvid {b['version']}, {b['commit']}",
                    "device: " + b["device"].rsplit(", ", 1)[0],
                    "processor: " + b["processor"]]
            if b["driver"]:
                fact.append("driver: " + b["driver"])
            seen += [f for f in fact if f not in seen]
    best = max((line["bench"] for line in lines if "bench" in line),
               key=lambda b: b.get("product_tflops", 0), default={})
    if "product_tflops" in best:
        product, copy = best["product_tflops"], best.get("copy_tbs", 0)
        unit = 1 if product > 1 else 1e3
        seen.append(f"ceilings by the backend: product {product * unit:.0f} "
                    f"{'TG'[unit > 1]}FLOP/s, copy {copy * unit:.2f} "
                    f"{'TG'[unit > 1]}B/s")
    for line in lines:
        if "peer" in line:
            seen.append("; ".join(line["peer"]["facts"]))
            seen.append("ceilings by PyTorch: " + ", ".join(
                f"{name} {value:.{0 if value > 20 else 2}f} {unit}"
                for name, value, unit in line["peer"]["ceilings"]))
    return seen


def show(rows, markdown):
    if markdown:
        yield "| " + " | ".join(rows[0]) + " |"
        yield "|---" * len(rows[0]) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in rows[1:])
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(w) for cell, w in
                        zip(row, widths)).rstrip()


def report(lines, targets):
    """(text, Markdown, targets missed)"""
    measured = results_table(lines)
    wanted, short = targets_table(lines, targets)
    left_out = [f"{name_of(line)}: {line.get('skipped') or line['failed']}"
                for line in lines if "skipped" in line or "failed" in line]
    out = []
    for markdown in (False, True):
        text = [("- " if markdown else "") + f for f in facts(lines)] + [""]
        if len(measured) > 1:
            text += [*show(measured, markdown), ""]
        if len(wanted) > 1:
            text += [*show(wanted, markdown), ""]
        elif targets:
            text += ["There are no targets for this device.", ""]
        if left_out:
            text += ["Not run:", ""] if markdown else ["Not run:"]
            text += [("- " if markdown else "  ") + l for l in left_out]
        out.append("\n".join(text).rstrip() + "\n")
    return out[0], out[1], short


# ---------------------------------------------------------------------- main


def main():
    parser = argparse.ArgumentParser(
        description="all benchmarks of clips, their targets and a chart")
    parser.add_argument("--causvid", default="build/bin/causvid")
    parser.add_argument("--device", default="cuda", help="of causvid")
    parser.add_argument("--set", default="full",
                        choices=("short", "full", "tiny"))
    parser.add_argument("--only", action="append", default=[], metavar="WORDS",
                        help="cases whose name has these words")
    parser.add_argument("--budget", type=float, default=0, metavar="SECONDS",
                        help="cases that take longer are left out")
    parser.add_argument("--model-14b", metavar="PATH",
                        help="a 14B model in files, to be loaded")
    parser.add_argument("--model-14b-fp8", metavar="PATH")
    parser.add_argument("--out", default="build/bench", metavar="FOLDER")
    parser.add_argument("--chart", metavar="FILE", help="default: in OUT")
    parser.add_argument("--targets",
                        default=os.path.join(HERE, "targets.tsv"))
    parser.add_argument("--peer", default="ceilings",
                        choices=("none", "ceilings", "all"),
                        help="of peer.py, after the cases: of the set short "
                        "single operations, else everything")
    parser.add_argument("--python", default=sys.executable,
                        help="that has PyTorch")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--report", action="store_true",
                        help="run nothing: tables and chart of the results")
    args = parser.parse_args()
    args.budget = args.budget or float("inf")
    args.files = {name: path for name, path in (
        ("file-14b", args.model_14b), ("file-14b-fp8", args.model_14b_fp8))
        if path}
    targets = read_targets(args.targets)
    suite, slower = Suite(args), False
    if args.report:
        suite.load()
    else:
        slower = suite.run_all()
    text, markdown, short = report(suite.lines, targets)
    say("\n" + text)
    with open(os.path.join(args.out, "report.md"), "w",
              encoding="utf-8") as f:
        f.write(markdown)
    path = args.chart or os.path.join(args.out, "chart.svg")
    if chart.write(path, suite.lines):
        say("chart:", path)
    failed = [line for line in suite.lines if "failed" in line]
    measured = [line for line in suite.lines if "bench" in line]
    say(f"{len(measured)} cases measured, {len(failed)} failed, {short} "
        f"targets missed; {suite.seconds():.0f} s")
    if slower:
        say("PyTorch was faster in something, could not be compared with, or "
            "an operation missed its target")
    return 1 if failed or short or slower or not measured else 0


if __name__ == "__main__":
    sys.exit(main())
