"""Writes the sample model's folder from the training checkpoints.

    python3 export.py CHECKPOINTS TOKENIZER OUTPUT --timesteps 1000,757,522
    python3 export.py CHECKPOINTS TOKENIZER OUTPUT --euler 16 --guidance 3

CHECKPOINTS names folders, with commas between: each network is taken from the
first that holds it. --random takes random weights instead. --euler writes the
recipe of a flow model. Weights are stored as bfloat16 by the classes' own
save_pretrained.
"""
import argparse
import json
import os
import shutil

import torch

import common
import models
from tokenizer import Tokenizer


def recipe(timesteps, euler, guidance):
    out = {"name": "shapes", "variant": "causal", "width": 160, "height": 96,
           "rate": 16, "frames": 81, "frames_per_block": models.BLOCK,
           "window": models.WINDOW}
    if euler:
        out.update(sampler="euler", steps=euler, shift=3.0)
    else:
        out.update(sampler="causvid", timesteps=timesteps, warp=False,
                   shift=8.0)
    return {**out, "guidance": guidance, "licence": "BSD-2-Clause"}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=2)
        out.write("\n")


def fast_tokenizer(folder):
    """tokenizer.json, the form that transformers reads first."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, pre_tokenizers, processors
    from tokenizers.models import Unigram
    model = Tokenizer(folder).model
    pieces = [(model.id_to_piece(i), model.get_score(i))
              for i in range(model.get_piece_size())]
    fast = Fast(Unigram(pieces, unk_id=3, byte_fallback=False))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.decoder = decoders.Metaspace(prepend_scheme="always")
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>",
        special_tokens=[("</s>", 1)])
    fast.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    fast.save(os.path.join(folder, "tokenizer.json"))
    path = os.path.join(folder, "tokenizer_config.json")
    with open(path, encoding="utf-8") as source:
        config = json.load(source)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, config)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("checkpoints")
    args.add_argument("tokenizer")
    args.add_argument("output")
    args.add_argument("--timesteps", default="1000,757,522,250")
    args.add_argument("--euler", type=int, default=0)
    args.add_argument("--guidance", type=float, default=1.0)
    args.add_argument("--random", action="store_true")
    args = args.parse_args()
    torch.manual_seed(2)
    os.makedirs(args.output, exist_ok=True)

    folder = os.path.join(args.output, "tokenizer")
    os.makedirs(folder, exist_ok=True)
    for name in ("spiece.model", "tokenizer_config.json",
                 "special_tokens_map.json"):
        shutil.copyfile(os.path.join(args.tokenizer, name),
                        os.path.join(folder, name))
    fast_tokenizer(folder)

    vae, dit = models.make_vae(), models.make_dit()
    text = models.make_text(Tokenizer(folder).size)
    if args.random:
        with torch.no_grad():
            for p in dit.proj_out.parameters():
                p.add_(0.02 * torch.randn_like(p))
    stats = None
    if not args.random:
        cpu = torch.device("cpu")
        stats = common.load(args.checkpoints, "vae", vae, cpu)
        common.load(args.checkpoints, "dit", dit, cpu)
        common.load(args.checkpoints, "text", text, cpu)
    if stats:
        vae.register_to_config(
            latents_mean=[round(v, 6) for v in stats["mean"].tolist()],
            latents_std=[round(v, 6) for v in stats["std"].tolist()])
    for name, module in (("vae", vae), ("transformer", dit),
                         ("text_encoder", text)):
        module.to(torch.bfloat16).save_pretrained(
            os.path.join(args.output, name))

    from diffusers import UniPCMultistepScheduler
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=8.0).save_pretrained(
        os.path.join(args.output, "scheduler"))
    import diffusers
    write_json(os.path.join(args.output, "model_index.json"), {
        "_class_name": "WanPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"]})
    write_json(os.path.join(args.output, "recipe.json"),
               recipe([int(t) for t in args.timesteps.split(",")],
                      args.euler, args.guidance))
    total = 0
    for base, _, names in os.walk(args.output):
        for name in names:
            total += os.path.getsize(os.path.join(base, name))
    print(args.output, total, "bytes")


if __name__ == "__main__":
    main()
