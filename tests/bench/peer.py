#!/usr/bin/env python3
"""causvid beside PyTorch, stage by stage, in one run on one GPU.

SPDX-License-Identifier: BSD-2-Clause

    python3 tests/bench/peer.py --with-causvid build/bin/causvid

PyTorch's side is standin.py: the official code's way of computing, eager, bf16
weights, attention by cuDNN, cudnn.benchmark for the convolutions, rotations in
float64 (a second row: in float32). Weights are random, of the published
shapes; speed does not depend on their values. Where diffusers can be imported,
its modules are measured as well. Each figure is the median of some runs after
a warm-up, with the device waited for.

causvid's side is `causvid bench --json` with its random models: the stages of
whole clips. Its denoising stage holds, besides the network's passes, the
sampler's arithmetic and noise, and its text stage the keys and values of the
text for all blocks; PyTorch's figures are of the bare networks.

The share of the ceiling is that of the fastest large bf16 product that
PyTorch (cuBLAS) makes here, 8192 x 8192 x 8192. Beside it a product of fp8
matrices, with one scale and with one for each row and column, and a copy are
measured: what this machine can do (`--stages ceilings`: only that).
`--stages kernels` holds single operations beside PyTorch's: kernels.py.

`--selftest` compares standin.py with diffusers and transformers, on the CPU in
float32; `--scale tiny --torch cpu` shows that all of this works, in seconds.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
import standin

TEXT = 512 # rows of text that the transformer sees

# A clip's shape in latents, and the networks'. Tiny ones are like the
# engine's random:tiny, for which `causvid bench` fits.
SCALES = {
    "full": {
        "size": (832, 480), "latents": 21, "block": 3,
        "1.3b": dict(dim=1536, ffn_dim=8960, heads=12, layers=30),
        "14b": dict(dim=5120, ffn_dim=13824, heads=40, layers=40),
        "text": {}, "vae": {}, "gemm": 8192,
    },
    "tiny": {
        "size": (96, 64), "latents": 6, "block": 3,
        "1.3b": dict(dim=128, ffn_dim=256, heads=2, layers=2),
        "14b": dict(dim=256, ffn_dim=512, heads=4, layers=2),
        "text": dict(vocabulary=1000, dim=64, head_dim=16, heads=4,
                     ffn_dim=128, layers=2),
        "vae": dict(base=8), "gemm": 256,
    },
}


def say(*words):
    print(*words, flush=True, file=sys.stderr)


class Peer:
    """PyTorch's figures: rows of stage, name, seconds, TFLOP."""

    def __init__(self, args):
        self.args, self.scale, self.rows = args, SCALES[args.scale], []
        self.device = args.torch
        self.dtype = torch.bfloat16
        width, height = self.scale["size"]
        self.grid = (self.scale["latents"], height // 8, width // 8)
        self.no_cudnn = self.try_cudnn()
        self.ceiling = self.gemm()
        self.ceilings = self.all_ceilings()

    # ---- how time is taken

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, function, runs):
        """Of each run, after a warm-up."""
        out = function()
        self.wait()
        # Numbers that are none would keep the chip cool, and so fast.
        if torch.is_tensor(out) and not (out.isfinite().all() and out.std()):
            raise RuntimeError("a network of random weights made no numbers")
        del out
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - began)
        return times

    def add(self, stage, name, times, tflop):
        median = statistics.median(times)
        self.rows.append({"stage": stage, "name": name, "seconds": median,
                          "least": min(times), "most": max(times),
                          "tflop": tflop})
        self.args.record(self.rows[-1])
        say(f"  {name}, {stage}: {median:.4f} s ({min(times):.4f} to "
            f"{max(times):.4f}), {tflop / median:.0f} TFLOP/s")

    def free(self):
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def gemm(self):
        n = self.scale["gemm"]
        a, b = torch.randn(2, n, n, device=self.device).to(self.dtype)

        def products(count=20):
            for _ in range(count):
                a @ b

        products() # until the clock is what it will be
        rate = 20 * 2 * n ** 3 / 1e12 / min(self.seconds(products, 3))
        say(f"  bf16 product {n} x {n} x {n}: {rate:.0f} TFLOP/s")
        return rate

    def all_ceilings(self):
        """[name, value, unit]"""
        n = self.scale["gemm"]
        out = [["bf16 product", self.ceiling, "TFLOP/s"]]
        if self.device == "cuda":
            a, b = (torch.randn(n, n, device="cuda")
                    .clamp(-4, 4).to(torch.float8_e4m3fn) for _ in range(2))
            for name, shapes in (("one scale", ((), ())),
                                 ("scales of rows", ((n, 1), (1, n)))):
                scales = [torch.ones(s, device="cuda") for s in shapes]

                def products(scales=scales):
                    for _ in range(20):
                        torch._scaled_mm(a, b.t(), *scales,
                                         out_dtype=torch.bfloat16,
                                         use_fast_accum=True)

                try:
                    products()
                    seconds = min(self.seconds(products, 3)) / 20
                    out.append([f"fp8 product, {name}",
                                2 * n ** 3 / 1e12 / seconds, "TFLOP/s"])
                except (RuntimeError, ValueError, AttributeError) as e:
                    say(f"  fp8 product, {name}: {str(e).splitlines()[0]}")
        size = 1 << (30 if self.device == "cuda" else 26)
        x = torch.empty(size, dtype=torch.uint8, device=self.device).random_()
        y = torch.empty_like(x)

        def copies():
            for _ in range(10):
                y.copy_(x)

        seconds = min(self.seconds(copies, 3)) / 10
        out.append(["copy", 2 * size / 1e12 / seconds, "TB/s"])
        for name, value, unit in out[1:]:
            say(f"  {name}: {value:.{0 if value > 20 else 3}f} {unit}")
        self.free()
        return out

    def cudnn_attention(self):
        """Nothing but cuDNN's, where there is such a thing."""
        if self.device == "cuda" and not self.no_cudnn:
            return sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
        return contextlib.nullcontext()

    def try_cudnn(self):
        """Why cuDNN's attention cannot be had, or None."""
        if self.device != "cuda":
            return "on the CPU"
        q = torch.randn(1, 2, 512, 128, device=self.device).to(self.dtype)
        try:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
        except RuntimeError as e:
            say(f"  cuDNN's attention cannot be had: {e}")
            return str(e)
        return None

    def build(self, make):
        """A module on the device, filled with small random numbers."""
        with torch.device("meta"):
            module = make()
        module = module.to(self.dtype).to_empty(device=self.device).eval()
        for p in module.parameters():
            p.requires_grad_(False)
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5)
            else:
                p.uniform_(0.5, 1.5)
        for b in module.buffers():
            if b.is_floating_point():
                b.normal_()
        return module

    # ---- the stages

    def transformer_tflop(self, shape, tokens, keys, text_keys):
        d, f = shape["dim"], shape["ffn_dim"]
        linears = tokens * (6 * d * d + 2 * d * f)
        linears += 2 * text_keys * d * d
        attention = 2 * tokens * (keys + TEXT) * d
        ends = tokens * 2 * 64 * d
        return 2 * (shape["layers"] * (linears + attention) + ends) / 1e12

    def inputs(self, frames):
        shape = (1, 16, frames, *self.grid[1:])
        text = torch.randn(1, TEXT, 4096, device=self.device)
        return torch.randn(shape, device=self.device), text.to(self.dtype)

    def tokens(self, frames):
        return frames * (self.grid[1] // 2) * (self.grid[2] // 2)

    def table(self, frames, first=0, double=True):
        return standin.rotations(
            frames, self.grid[1] // 2, self.grid[2] // 2, first,
            self.head_dim, double).to(self.device)

    def step(self, size, runs):
        """A forward over all tokens of the clip at once."""
        shape, frames = self.scale[size], self.grid[0]
        self.head_dim = shape["dim"] // shape["heads"]
        model = self.build(lambda: standin.Transformer(**shape, causal=False))
        model.set_precision(self.dtype)
        latents, text = self.inputs(frames)
        t = torch.full((1, 1), 757.0, device=self.device)
        n = self.tokens(frames)
        tflop = self.transformer_tflop(shape, n, n, TEXT)
        for name, double in (("PyTorch", True),
                             ("PyTorch, float32 rotations", False)):
            table = self.table(frames, double=double)
            with self.cudnn_attention():
                times = self.seconds(
                    lambda: model(latents, t, text, table), runs)
            self.add(f"{size} step", name, times, tflop)
            runs = max(1, runs - 1) # the first row is what is compared with
        del model
        self.free()
        if self.diffusers:
            self.diffusers_step(size, runs, tflop, latents, text)

    def diffusers_step(self, size, runs, tflop, latents, text):
        shape, make = self.scale[size], self.diffusers.WanTransformer3DModel

        def model_of(layers):
            return make(num_attention_heads=shape["heads"],
                        attention_head_dim=self.head_dim, in_channels=16,
                        out_channels=16, text_dim=4096, freq_dim=256,
                        ffn_dim=shape["ffn_dim"], num_layers=layers)

        try:
            # Its tables of rotations are values that are made, not filled in:
            # only the blocks come from the device.
            model = model_of(0)
            model.blocks = self.build(lambda: model_of(shape["layers"])).blocks
            model = model.to(self.device).eval()
            keep = getattr(model, "_keep_in_fp32_modules", None) or []
            for name, p in model.named_parameters():
                p.requires_grad_(False)
                p.data = p.data.to(torch.float32 if any(
                    k in name for k in keep) else self.dtype)
            t = torch.full((1,), 757.0, device=self.device)
            latents = latents.to(self.dtype)
            with self.cudnn_attention():
                times = self.seconds(
                    lambda: model(latents, t, text).sample, runs)
            self.add(f"{size} step", "diffusers", times, tflop)
            del model
        except (RuntimeError, TypeError, ValueError) as e:
            say(f"  diffusers, {size} step: {e}")
        self.free()

    def causal(self, runs):
        """Passes over a block, for each length of the cache."""
        shape, size = self.scale["1.3b"], self.scale["block"]
        self.head_dim = shape["dim"] // shape["heads"]
        model = self.build(lambda: standin.Transformer(**shape, causal=True))
        latents, text = self.inputs(size)
        t = torch.full((1, size), 757.0, device=self.device)
        block = self.tokens(size)
        blocks = self.grid[0] // size
        cache = model.new_cache(blocks * block, self.dtype)
        tables = [self.table(size, i * size) for i in range(blocks)]
        tflop, all_times = 0, []
        for i in range(blocks):
            with self.cudnn_attention():
                times = self.seconds(
                    lambda i=i: model(latents, t, text, tables[i], cache,
                                      i * block), runs)
            self.add(f"causal 1.3b pass, block {i + 1}", "PyTorch", times,
                     self.transformer_tflop(shape, block, (i + 1) * block, 0))
            tflop += self.rows[-1]["tflop"] / blocks
            all_times.append(times)
        mean = [sum(times) / blocks for times in zip(*map(sorted, all_times))]
        self.add("causal 1.3b pass", "PyTorch", mean, tflop)
        del model, cache
        self.free()

    def text(self, runs):
        model = self.build(
            lambda: standin.TextEncoder(**self.scale["text"]))
        rows, dim = model.token_embedding.weight.shape
        f, inner = (model.blocks[0].ffn.fc1.out_features,
                    model.blocks[0].attn.q.out_features)
        ids = torch.randint(0, rows, (1, TEXT), device=self.device)
        mask = torch.ones_like(ids)
        times = self.seconds(lambda: model(ids, mask), runs)
        self.add("text encoder", "PyTorch", times,
                 2 * len(model.blocks) * TEXT *
                 (4 * dim * inner + 3 * dim * f + 2 * TEXT * inner) / 1e12)
        del model
        self.free()

    def vae(self, runs):
        torch.backends.cudnn.benchmark = True
        model = self.build(lambda: standin.Decoder(**self.scale["vae"]))
        z = torch.randn(1, 16, *self.grid, device=self.device).to(self.dtype)
        flop = [0]

        def count(module, _, out):
            flop[0] += 2 * out.numel() * module.weight[0].numel()

        # Frames of a first latent, of a second; all later ones are like it.
        totals = []
        for latents in (1, 2):
            flop[0] = 0
            hooks = [m.register_forward_hook(count) for m in model.modules()
                     if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d))]
            model(z[:, :, :latents])
            for hook in hooks:
                hook.remove()
            totals.append(flop[0] / 1e12)
        tflop = totals[0] + (self.grid[0] - 1) * (totals[1] - totals[0])
        times = self.seconds(lambda: model(z), runs)
        self.add("VAE decode", "PyTorch", times, tflop)
        del model
        self.free()
        if self.diffusers:
            try:
                model = self.build(lambda: self.diffusers.AutoencoderKLWan(
                    base_dim=self.scale["vae"].get("base", 96)))
                times = self.seconds(
                    lambda: model.decode(z, return_dict=False)[0],
                    max(1, runs - 1))
                self.add("VAE decode", "diffusers", times, tflop)
                del model
            except (RuntimeError, TypeError, ValueError) as e:
                say(f"  diffusers, VAE decode: {e}")
            self.free()
        torch.backends.cudnn.benchmark = False

    @torch.inference_mode()
    def run(self):
        self.diffusers = None
        if not self.args.no_diffusers:
            try:
                import diffusers
                diffusers.utils.logging.set_verbosity_error()
                # These are imported when they are first named.
                assert diffusers.WanTransformer3DModel
                assert diffusers.AutoencoderKLWan
                self.diffusers = diffusers
            except (ImportError, RuntimeError, AttributeError) as e:
                say(f"  without diffusers: {e}")
        a = self.args
        for stage, function, values in (
                ("text", self.text, (a.runs,)),
                ("1.3b", self.step, ("1.3b", a.runs)),
                ("causal", self.causal, (a.runs,)),
                ("vae", self.vae, (a.runs,)),
                ("14b", self.step, ("14b", min(a.runs, a.wide_runs)))):
            if stage in a.stages:
                try:
                    function(*values)
                except RuntimeError as e: # as without enough memory
                    say(f"  {stage}: {e}")
                self.free()


# ---------------------------------------------------------------- our side


# Of the sample model, which the program may look for where it was built.
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..",
                         "..", "samples", "shapes", "tokenizer")


def bench(args, *options):
    """What `causvid bench` measured, or None."""
    command = [args.with_causvid, "bench", "--json", "--device",
               args.device, "--tokenizer", TOKENIZER, *options]
    env = dict(os.environ)
    if "CAUSVID_LIBRARY_PATH" in env:
        env["LD_LIBRARY_PATH"] = env["CAUSVID_LIBRARY_PATH"]
    say(" ", " ".join(o if len(o) < 60 else f"'{o[:32]}...'"
                      for o in command))
    try:
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE,
                              text=True, check=True, timeout=args.limit)
    except (subprocess.SubprocessError, OSError) as e:
        say(f"  {type(e).__name__}: {str(e)[-120:]}")
        return None
    line = json.loads(done.stdout.splitlines()[-1])
    args.record(line)
    return line


def causvid(args):
    """Seconds by stage, and causvid's version."""
    found, version = {}, None
    width, height = SCALES[args.scale]["size"]
    frames = 4 * (SCALES[args.scale]["latents"] - 1) + 1
    clip = ["--size", f"{width}x{height}", "--frames", str(frames)]
    runs = ["--runs", str(args.runs)]
    wide_runs = ["--runs", str(min(args.runs, args.wide_runs))]
    name = (lambda n: "random:wan-" + n) if args.scale == "full" else (
        lambda n: "random:tiny")
    long_prompt = "red " * (TEXT - 1) # a token each, and the end

    if {"causal", "vae", "text"} & set(args.stages):
        line = bench(args, "--model", name("1.3b"), "--variant", "causal",
                     *clip, *runs)
        if line:
            blocks = SCALES[args.scale]["latents"] // SCALES[
                args.scale]["block"]
            version = f"{line['version']}, {line['commit']}"
            found["causal 1.3b pass"] = line["sampling_s"] / (blocks *
                                                              line["steps"])
            found["VAE decode"] = line["vae_s"]
    if {"1.3b", "text"} & set(args.stages):
        # Its prompt is as long as what the official code always computes.
        line = bench(args, "--model", name("1.3b"), "--variant",
                     "bidirectional", *clip, "--steps", "3", "--prompt",
                     long_prompt, *runs)
        if line:
            version = f"{line['version']}, {line['commit']}"
            found["1.3b step"] = line["sampling_s"] / line["steps"]
            if line["tokens"] == TEXT:
                found["text encoder"] = line["text_s"]
    if "14b" in args.stages:
        line = bench(args, "--model", name("14b"), *clip, "--steps",
                     str(args.wide_steps), "--variant", "bidirectional",
                     *wide_runs)
        if line:
            version = f"{line['version']}, {line['commit']}"
            found["14b step"] = line["sampling_s"] / line["steps"]
    return found, version


# ------------------------------------------------------------------ a table


STAGES = {
    "text encoder": "text encoder, 512 tokens",
    "1.3b step": "1.3B, a step over all tokens",
    "14b step": "14B, a step over all tokens",
    "causal 1.3b pass": "causal 1.3B, a pass over a block (mean)",
    "VAE decode": "VAE, all latents",
}


def table(args, peer, ours):
    """Rows of strings: the head first. The ratio is to the fastest peer."""
    head = ["stage", "PyTorch", "float32 rotations", "diffusers", "causvid",
            "faster", "TFLOP/s", "of ceiling"]
    rows, fell_short = [], []
    for stage, label in STAGES.items():
        theirs = {r["name"]: r for r in peer.rows if r["stage"] == stage}
        if not theirs:
            continue
        own = ours.get(stage)
        row = [label]
        for name in ("PyTorch", "PyTorch, float32 rotations", "diffusers"):
            row.append(f"{theirs[name]['seconds']:.4f} s" if name in theirs
                       else "-")
        if own:
            tflop = theirs["PyTorch"]["tflop"]
            # The official way is the bar.
            ratio = theirs["PyTorch"]["seconds"] / own
            row += [f"{own:.4f} s", f"{ratio:.2f} x",
                    f"{tflop / own:.0f}",
                    f"{100 * tflop / own / peer.ceiling:.0f} %"]
            if ratio < 1:
                fell_short.append(stage)
        else:
            row += ["-"] * 4
            if args.with_causvid:
                fell_short.append(stage)
        rows.append(row)
    return [head] + rows, fell_short


def print_table(rows, markdown):
    if markdown:
        print("| " + " | ".join(rows[0]) + " |")
        print("|---" * len(rows[0]) + "|")
        for row in rows[1:]:
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in
                        zip(row, widths)).rstrip())


def facts(args):
    where = "the CPU"
    if args.torch == "cuda":
        where = torch.cuda.get_device_name()
        with contextlib.suppress(OSError, IndexError):
            with open("/proc/driver/nvidia/version", encoding="ascii") as f:
                where += ", driver " + f.readline().split("  ")[1]
    out = [f"PyTorch {torch.__version__} on {where}"]
    if args.torch == "cuda":
        out.append(f"CUDA {torch.version.cuda}, cuDNN "
                   f"{torch.backends.cudnn.version()}")
    return out


def main():
    parser = argparse.ArgumentParser(
        description="causvid beside PyTorch, stage by stage")
    parser.add_argument("--with-causvid", metavar="PROGRAM",
                        help="the causvid program")
    parser.add_argument("--device", default="cuda", help="of causvid")
    parser.add_argument("--torch", choices=("cuda", "cpu"),
                        help="of PyTorch; default: cuda where there is one")
    parser.add_argument("--scale", default="full", choices=SCALES)
    parser.add_argument("--stages", default="text,1.3b,causal,vae,14b",
                        help="of these and kernels, or ceilings alone")
    parser.add_argument("--with-test-ops", metavar="PROGRAM",
                        help="for the stage kernels; default: of the same "
                        "build as the causvid program")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--wide-runs", type=int, default=2,
                        help="of the 14B model; default: 2")
    parser.add_argument("--wide-steps", type=int, default=2,
                        help="steps of causvid's 14B clips; default: 2")
    parser.add_argument("--limit", type=int, default=120,
                        help="seconds that a run of causvid may take")
    parser.add_argument("--no-diffusers", action="store_true")
    parser.add_argument("--json", metavar="FILE",
                        help="a line for each figure goes here")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--selftest", action="store_true")
    args = parser.parse_args()
    args.stages = args.stages.split(",")
    if unknown := set(args.stages) - {"text", "1.3b", "causal", "vae", "14b",
                                      "kernels", "ceilings"}:
        parser.error(f"unknown stage '{unknown.pop()}'")
    if "kernels" in args.stages and not (args.with_causvid or
                                         args.with_test_ops):
        parser.error("the stage kernels needs --with-causvid or "
                     "--with-test-ops")
    args.torch = args.torch or ("cuda" if torch.cuda.is_available() else
                                "cpu")
    if args.selftest:
        import selftest
        return selftest.run()

    began = time.monotonic()
    say("\n".join(facts(args)))
    torch.manual_seed(1)
    output = (open(args.json, "w", encoding="utf-8") if args.json else
              contextlib.nullcontext())
    with output as f:
        args.record = (lambda line: f.write(json.dumps(line) + "\n")
                       and f.flush()) if f else (lambda line: None)
        peer = Peer(args)
        args.record({"facts": facts(args), "ceiling": peer.ceiling,
                     "ceilings": peer.ceilings})
        peer.run()
        ours, version = causvid(args) if args.with_causvid else ({}, None)
        rows, fell_short = table(args, peer, ours)
        tables, missed = [rows] if len(rows) > 1 else [], []
        if "kernels" in args.stages:
            try:
                with torch.inference_mode():
                    rows, missed = kernels.table(peer, args)
                tables.append(rows)
            except (subprocess.SubprocessError, OSError, ValueError) as e:
                say(f"  kernels: {e}")
                fell_short.append("kernels")
    for fact in facts(args) + [
            f"{name}: {value:.{0 if value > 20 else 3}f} {unit}"
            for name, value, unit in peer.ceilings]:
        print(("- " if args.markdown else "") + fact)
    if version:
        print(f"{'- ' if args.markdown else ''}causvid {version}")
    for rows in tables:
        print()
        print_table(rows, args.markdown)
    say(f"{time.monotonic() - began:.0f} s")
    if args.with_causvid and fell_short:
        say("slower than PyTorch, or not measured: " + ", ".join(fell_short))
    if missed:
        say("targets missed: " + "; ".join(missed))
    return 1 if missed or args.with_causvid and fell_short else 0


if __name__ == "__main__":
    sys.exit(main())
