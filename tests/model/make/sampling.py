#!/usr/bin/env python3
"""Make the samplers' fixtures, step by step, with diffusers' schedulers.

SPDX-License-Identifier: BSD-2-Clause

Usage: sampling.py [FOLDER]     (default: ../fixtures/sampling)

steps.safetensors holds runs NAME.{sampler,steps,shift,timesteps,sigmas} and,
for each step i, NAME.{flow,x0,x}.i: the network's answer (random), the
prediction of the clean latents and the sample after the step; NAME.start is
the sample before the first. Also NAME.noise.i for CausVid.

Wan's own UniPC starts its sigmas at 0.999 (wan/utils/fm_solvers_unipc.py);
diffusers' scheduler is given these. Schedulers run in float64 on float32
sigmas, so that the fixture has no rounding of its own. CausVid's scheduler is
no part of diffusers; its few lines (causvid/models/wan/flow_match.py) are
repeated here in the reference's order of operations and types.
"""
import os
import sys

import numpy as np
import torch
from diffusers import (FlowMatchEulerDiscreteScheduler,
                       UniPCMultistepScheduler)
from safetensors.torch import save_file

SHAPE = (2, 3, 2, 4)
CAUSVID, EULER, UNIPC, FLOWMATCH = 1, 2, 3, 4  # enum CausvidSampler

out = {}


def randn():
    return torch.randn(SHAPE, dtype=torch.float32)


def record(name, sampler, steps, shift, timesteps, sigmas):
    out[f"{name}.sampler"] = torch.tensor([float(sampler)])
    out[f"{name}.steps"] = torch.tensor([float(steps)])
    out[f"{name}.shift"] = torch.tensor([float(shift)])
    out[f"{name}.timesteps"] = timesteps.float().contiguous()
    out[f"{name}.sigmas"] = sigmas.float().contiguous()


def run_scheduler(name, scheduler, x0_of):
    """x0_of(scheduler, x, flow, i): the step's prediction, as it uses it."""
    scheduler.sigmas = scheduler.sigmas.double()
    x = randn()
    out[f"{name}.start"] = x
    x = x.double()
    for i, t in enumerate(scheduler.timesteps):
        flow = randn()
        out[f"{name}.flow.{i}"] = flow
        x0 = x0_of(scheduler, x, flow.double(), i)
        out[f"{name}.x0.{i}"] = x0.float()
        x = scheduler.step(flow.double(), t, x, return_dict=False)[0]
        out[f"{name}.x.{i}"] = x.float()


def unipc(name, steps, shift):
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=shift, solver_order=2, solver_type="bh2")
    scheduler.set_timesteps(
        steps, sigmas=np.linspace(0.999, 0, steps + 1)[:-1])
    record(name, UNIPC, steps, shift, scheduler.timesteps, scheduler.sigmas)
    run_scheduler(name, scheduler,
                  lambda s, x, flow, i: x - s.sigmas[i] * flow)


def euler(name, steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1])
    record(name, EULER, steps, shift, scheduler.timesteps, scheduler.sigmas)
    run_scheduler(name, scheduler,
                  lambda s, x, flow, i: x - s.sigmas[i] * flow)


def flowmatch(name, timesteps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=np.array(timesteps) / 1000)
    record(name, FLOWMATCH, len(timesteps), 1, scheduler.timesteps,
           scheduler.sigmas)
    run_scheduler(name, scheduler,
                  lambda s, x, flow, i: x - s.sigmas[i] * flow)


class CausVid:
    """FlowMatchScheduler(shift, sigma_min=0, extra_one_step=True)."""

    def __init__(self, shift):
        sigmas = torch.linspace(1.0, 0.0, 1001)[:-1]
        self.sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        self.timesteps = self.sigmas * 1000

    def index(self, t):
        return torch.argmin((self.timesteps.double() - float(t)).abs())

    def warp(self, steps):
        table = torch.cat([self.timesteps, torch.zeros(1)])
        return table[1000 - torch.tensor(steps, dtype=torch.long)]

    def x0(self, x, flow, t):
        sigma = self.sigmas.double()[self.index(t)]
        return (x.double() - sigma * flow.double()).float()

    def add_noise(self, x0, noise, t):
        sigma = self.sigmas[self.index(t)]
        return (1 - sigma) * x0 + sigma * noise


def causvid(name, steps, shift, warp):
    scheduler = CausVid(shift)
    timesteps = (scheduler.warp(steps) if warp else
                 torch.tensor(steps, dtype=torch.float32))
    sigmas = torch.stack([scheduler.sigmas[scheduler.index(t)]
                          for t in list(timesteps) + [torch.tensor(0.0)]])
    record(name, CAUSVID, len(steps), shift, timesteps, sigmas)
    out[f"{name}.list"] = torch.tensor(steps, dtype=torch.float32)
    out[f"{name}.warp"] = torch.tensor([float(warp)])
    x = randn()
    out[f"{name}.start"] = x
    for i, t in enumerate(timesteps):
        flow = randn()
        out[f"{name}.flow.{i}"] = flow
        x = x0 = scheduler.x0(x, flow, t)
        out[f"{name}.x0.{i}"] = x0
        if i + 1 < len(timesteps):
            noise = randn()
            out[f"{name}.noise.{i + 1}"] = noise
            x = scheduler.add_noise(x0, noise, timesteps[i + 1])
        out[f"{name}.x.{i}"] = x.clone()


def lookups(name, shift):
    """Which entry of the table stands for a timestep: all whole numbers and
    some between."""
    scheduler = CausVid(shift)
    t = torch.cat([torch.arange(1, 1001).double(),
                   torch.rand(200, dtype=torch.float64) * 1000])
    t = t.float()
    out[f"{name}.timesteps"] = t
    out[f"{name}.sigmas"] = torch.stack(
        [scheduler.sigmas[scheduler.index(v)] for v in t])
    out[f"{name}.shift"] = torch.tensor([shift])


def main(folder):
    torch.manual_seed(5)
    for steps, shift in [(1, 5.0), (2, 5.0), (3, 8.0), (4, 5.0), (7, 3.0),
                         (20, 5.0)]:
        unipc(f"unipc{steps}", steps, shift)
    euler("euler1", 1, 8.0)
    euler("euler4", 4, 8.0)
    euler("euler7", 7, 3.0)
    flowmatch("flowmatch4", [1000, 750, 500, 250])
    causvid("causvid3", [1000, 757, 522], 8.0, False)
    causvid("causvid4warp", [1000, 750, 500, 250], 8.0, True)
    causvid("selfforcing4", [1000, 750, 500, 250], 5.0, True)
    causvid("causvid1", [1000], 8.0, False)
    lookups("lookup8", 8.0)
    lookups("lookup5", 5.0)
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()},
              os.path.join(folder, "steps.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) > 1 else
         os.path.join(here, "..", "fixtures", "sampling"))
