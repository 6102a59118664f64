"""Is the memory that is predicted what a GPU then has in use, and does a text
encoder that is streamed give the bytes of one that stays?

SPDX-License-Identifier: BSD-2-Clause

    python3 tests/gpu/memory.py [--causvid build/bin/causvid] [--quick]
        [--file FOLDER]

Nothing else may use the GPU meanwhile. --quick: the small models only. --file:
a folder with room for 11.4 GB, such as /dev/shm: a text encoder is written
there (text_encoder.py beside this file) and the time that a prompt takes from
it is told. Exit status 0: all predictions are within 5 % and all bytes equal.
"""
import argparse
import filecmp
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
SAMPLE = os.path.join(ROOT, "samples", "shapes")
# The program may look for the sample model where it was built.
TOKENIZER = ["--tokenizer", os.path.join(SAMPLE, "tokenizer")]
CAUSAL = ["--model", "random:wan-1.3b", "--variant", "causal"]
LARGE = ["--model", "random:wan-14b", "--size", "832x480", "--frames", "81",
         "--steps", "2"]
BAR = 0.05

failures = []


def run(args, limit):
    done = subprocess.run(args, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip()[-400:]}")
    return done


def bench(causvid, name, args, limit=240):
    try:
        done = run([causvid, "bench", "--device", "cuda", "--runs", "1",
                    "--json", *TOKENIZER, *args], limit)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", flush=True)
        failures.append(name)
        return
    r = json.loads(done.stdout)
    off = r["predicted_gb"] / r["measured_gb"] - 1
    code = r["measured_gb"] - r["before_gb"] - r["taken_gb"]
    print(f"{name:34} {r['taken_gb']:8.3f} {r['before_gb']:8.3f} "
          f"{r['predicted_gb']:8.3f} {r['measured_gb']:8.3f} {100 * off:+6.2f} "
          f"% {1e3 * code:7.0f} MB {r['text_s']:8.3f} s {r['load_s']:7.2f} s",
          flush=True)
    if abs(off) > BAR:
        failures.append(name)


def write_inputs(path):
    """Token ids and noise for 33 frames of 96x64."""
    random.seed(3)
    ids = [random.randrange(3, 8000) for _ in range(60)] + [1]
    shape = [9, 16, 8, 12]
    noise = [random.gauss(0, 1) for _ in range(math.prod(shape))]
    data = struct.pack(f"<{len(ids)}q{len(noise)}f", *ids, *noise)
    text = json.dumps({
        "token_ids": {"dtype": "I64", "shape": [len(ids)],
                      "data_offsets": [0, 8 * len(ids)]},
        "noise": {"dtype": "F32", "shape": shape,
                  "data_offsets": [8 * len(ids), len(data)]}}).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def budgets(causvid, args):
    """None, and budgets with which the text encoder is streamed, the
    transformer's weights for text too, and some of its layers."""
    args = [a for a in args if a != "--model"]
    info = json.loads(run([causvid, "info", "--json", "--size", "96x64",
                           "--frames", "33", *TOKENIZER, *args], 60).stdout)
    sizes = [info[f"gpu_{key}mb"] for key in ("", "streamed_", "text_streamed_",
                                          "least_")]
    return [None] + [f"{(a + b) / 2:.3f}M" for a, b in zip(sizes, sizes[1:])]


def streamed_bytes(causvid, name, args, folder, limit=200):
    """The same outputs with and without room for what only a prompt needs."""
    inputs = os.path.join(folder, "inputs.safetensors")
    write_inputs(inputs)
    outputs = [os.path.join(folder, f"{i}.safetensors") for i in range(4)]
    signs = ["text encoder streamed", "weights for text", " layers, these"]
    try:
        for i, vram in enumerate(budgets(causvid, args)):
            done = run([causvid, "trace", "--device", "cuda", *TOKENIZER, *args,
                        "--sampler", "euler", "--steps", "2", "--inputs", inputs,
                        "--outputs", outputs[i], "--verbose",
                        *(["--vram", vram] if vram else [])], limit)
            if sum(sign in done.stderr for sign in signs) != i:
                raise RuntimeError(f"streamed or not? {done.stderr[-400:]}")
        same = all(filecmp.cmp(outputs[0], path, shallow=False)
                   for path in outputs[1:])
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", flush=True)
        same = False
    print(f"{name}: {'the same bytes' if same else 'NOT the same'} streamed",
          flush=True)
    if not same:
        failures.append(name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--causvid",
                        default=os.path.join(ROOT, "build/bin/causvid"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--file")
    args = parser.parse_args()
    causvid = args.causvid
    print(f"{'':34} {'taken':>8} {'before':>8} {'predict':>8} {'in use':>8} "
          f"{'off':>6}   {'code':>7}    {'a text':>8}   {'load':>7}")
    bench(causvid, "the sample model", ["--model", SAMPLE])
    bench(causvid, "random:tiny", ["--model", "random:tiny"])
    if not args.quick:
        bench(causvid, "1.3B causal", CAUSAL)
        bench(causvid, "1.3B causal, vram=12G", CAUSAL + ["--vram", "12G"])
        bench(causvid, "14B", LARGE)
        bench(causvid, "14B, vram=32G", LARGE + ["--vram", "32G"])
        bench(causvid, "14B, vram=28G", LARGE + ["--vram", "28G"])
        bench(causvid, "14B in fp8, vram=17G",
              LARGE + ["--precision", "fp8", "--vram", "17G"])
        bench(causvid, "14B in fp8, vram=10G",
              LARGE + ["--precision", "fp8", "--vram", "10G"])
    with tempfile.TemporaryDirectory(dir=args.file) as folder:
        streamed_bytes(causvid, "random:tiny", ["--model", "random:tiny"],
                       folder)
        if not args.quick:
            streamed_bytes(causvid, "1.3B", ["--model", "random:wan-1.3b"],
                           folder)
        if args.file:
            path = os.path.join(folder, "t5.safetensors")
            run([sys.executable, os.path.join(HERE, "text_encoder.py"), path],
                200)
            file = ["--text_encoder", path]
            bench(causvid, "1.3B causal, from a file", CAUSAL + file)
            bench(causvid, "  vram=12G", CAUSAL + file + ["--vram", "12G"])
            streamed_bytes(causvid, "1.3B from a file",
                           ["--model", "random:wan-1.3b"] + file, folder)
    print("failed: " + ", ".join(failures) if failures else "all passed")
    return bool(failures)


sys.exit(main())
