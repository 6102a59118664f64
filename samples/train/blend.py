"""Mixes the transformers of two checkpoints of one run.

    python3 blend.py BEFORE AFTER OUT --share 0.5

OUT gets BEFORE + share * (AFTER - BEFORE).
"""
import argparse

import torch

import common
import models


def main():
    args = argparse.ArgumentParser()
    args.add_argument("before")
    args.add_argument("after")
    args.add_argument("out")
    args.add_argument("--share", type=float, default=0.5)
    args = args.parse_args()
    dit = models.make_dit()
    before, _ = common.read(args.before, "dit")
    after, _ = common.read(args.after, "dit")
    dit.load_state_dict({k: torch.lerp(v.float(), after[k].float(),
                                       args.share)
                         for k, v in before.items()})
    common.save(args.out, "dit", dit)


if __name__ == "__main__":
    main()
