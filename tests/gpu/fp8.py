#!/usr/bin/env python3
"""How exact fp8 is: single forwards of the transformer at the widths of 1.3B
and 14B, in precision=fp8 and bf16, against PyTorch in float32.

SPDX-License-Identifier: BSD-2-Clause

Models, inputs and PyTorch's side are those of reference.py, and its models are
used again where they are in the same --work. `causvid trace` runs a clip in
each precision. Then PyTorch, in float32 and for comparison in bf16, makes each
forward of the first block once more from the very inputs that ours had: its
text embedding, and the latents that follow from what it computed in the steps
before. So an error is that of one forward and not of a clip, in which errors
grow. It is |a - b| / |b| over all values.

Every forward is one line; the bar for bf16 is reference.py's, 1.25 times the
error of PyTorch's bf16; fp8 has none, but an error of 0.5 or more is no
rounding. Also: the same fp8 run twice must write the same bytes.
"""
import argparse
import filecmp
import os
import sys

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

import models
import reference
from networks import Reference
from reference import BF16_RATIO, SOURCE, Ours, error, say
from sampling import CausVid # by networks.py

NONSENSE = 0.5


class Forwards(Reference):
    """The forwards of the first block, from what causvid computed. Of the
    model only the transformer is there."""

    def __init__(self, folder, name, dtype, device):
        self.recipe, self.name = models.RECIPES[name], name
        self.dtype, self.device, self.seconds = dtype, device, {}
        self.transformer = WanTransformer3DModel.from_pretrained(
            os.path.join(folder, "transformer"),
            torch_dtype=dtype).eval().to(device)

    @torch.no_grad()
    def flows(self, inputs, got):
        text = self.pad(got["text_embeds"])
        if self.name == "causal":
            size = self.recipe["frames_per_block"]
            steps, scheduler = (self.recipe["timesteps"],
                                CausVid(self.recipe["shift"]))
            x = inputs["noise"][:size].to(self.device)
            for step, t in enumerate(steps):
                if step:
                    x = scheduler.add_noise(
                        got[f"x0.0.{step - 1}"].to(self.device),
                        inputs[f"renoise.0.{step}"].to(self.device), t)
                yield self.forward(x, t, text).cpu()
            return
        scheduler = self.scheduler()
        x = inputs["noise"].to(self.device)
        for step, t in enumerate(scheduler.timesteps):
            yield self.forward(x, t, text).cpu()
            x = scheduler.step(got[f"flow.0.{step}"].to(self.device), t,
                               x).prev_sample


def torch_flows(args, folder, name, dtype, inputs, got):
    """{precision: [flow of each step]} for ours of each precision."""
    network = Forwards(folder, name, dtype, args.torch)
    out = {p: list(network.flows(inputs, got[p])) for p in got}
    del network
    if args.torch == "cuda":
        torch.cuda.empty_cache()
    return out


def check_model(args, table, name):
    scale = models.SCALES[args.scale]
    layers = {"text": args.text_layers, "causal": args.causal_layers,
              "wide": args.wide_layers}
    layers = {k: v or scale["layers"][k] for k, v in layers.items()}
    say(f"\n== {name}: width {width(args.scale, name)}, {layers[name]} layers")
    folder = models.make_model(
        args.work, name, args.scale, args.torch, layers,
        os.path.join(SOURCE, "samples", "shapes", "tokenizer",
                     "spiece.model"))
    if args.torch == "cuda":
        torch.cuda.empty_cache()

    def path(kind):
        return os.path.join(args.work, f"fp8-{name}-{kind}.safetensors")

    inputs = models.make_inputs(name, args.scale,
                                args.latents or scale["latents"])
    save_file(inputs, path("inputs"))
    ours, got = Ours(args, table), {}
    for precision in dict.fromkeys(args.precisions.split(",")):
        ours.run(name, folder, precision, path("inputs"), path(precision))
        if precision == "fp8":
            ours.run(name, folder, precision, path("inputs"), path("again"))
            table.check(name, "the same bytes again", "fp8", filecmp.cmp(
                path("fp8"), path("again"), shallow=False))
            os.remove(path("again"))
        got[precision] = {k: v for k, v in load_file(path(precision)).items()
                          if k.split(".")[0] in ("text_embeds", "flow", "x0")}
    want = torch_flows(args, folder, name, torch.float32, inputs, got)
    theirs = torch_flows(args, folder, name, torch.bfloat16, inputs, got)
    for precision in got:
        for step, flow in enumerate(want[precision]):
            own = error(got[precision][f"flow.0.{step}"], flow)
            peer = error(theirs[precision][step], flow)
            if precision == "bf16":
                table.add(name, f"forward, step {step + 1}", precision, own,
                          peer, BF16_RATIO)
                continue
            good = 0 < own < NONSENSE
            table.passed &= good
            table.rows.append((
                name, f"forward, step {step + 1}", precision, f"{own:.2e}",
                f"{peer:.2e}", f"{own / max(peer, 1e-30):.3f}", "-",
                "measured" if good else "FALLS SHORT"))


def width(scale, name):
    s = models.SCALES[scale][name]
    return s["num_attention_heads"] * s["attention_head_dim"]


def main():
    parser = argparse.ArgumentParser(
        description="single forwards in fp8 and bf16 against float32")
    parser.add_argument("--scale", default="full", choices=models.SCALES)
    parser.add_argument("--torch", choices=("cuda", "cpu"),
                        help="of PyTorch; default: cuda where there is one")
    parser.add_argument("--models", default="causal,wide")
    parser.add_argument("--precisions", default="bf16,fp8")
    parser.add_argument("--causal-layers", type=int, default=0, help="30")
    parser.add_argument("--wide-layers", type=int, default=0, help="4")
    parser.add_argument("--text-layers", type=int, default=0,
                        help="4; what is in --work already stays")
    parser.add_argument("--latents", type=int, default=0,
                        help="latent frames, a multiple of 3; 21")
    parser.add_argument("--work", default="causvid-reference",
                        help="of reference.py")
    args = parser.parse_args()
    args.device = "cuda"
    return reference.check_models(args, check_model)


if __name__ == "__main__":
    sys.exit(main())
