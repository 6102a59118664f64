"""What the training stages share: checkpoints and the latent data set."""
import json
import os
import random
import time

import torch
from safetensors.torch import load_file, save_file

import data
import machine
import models
from tokenizer import MAX_TOKENS

# Where a diffusers folder keeps each network.
FOLDERS = {"vae": "vae/diffusion_pytorch_model.safetensors",
           "dit": "transformer/diffusion_pytorch_model.safetensors",
           "text": "text_encoder/model.safetensors"}


def save(folder, name, module, stats=None):
    """One network as bfloat16; the same rounding as the exported model."""
    os.makedirs(folder, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16).contiguous().cpu()
             for k, v in module.state_dict().items()
             if k != "encoder.embed_tokens.weight"}
    if stats:
        state.update({"stats." + k: v.float().cpu().contiguous()
                      for k, v in stats.items()})
    path = os.path.join(folder, name + ".safetensors")
    save_file(state, path + ".part")
    os.replace(path + ".part", path)


def read(folders, name):
    """Tensors of a network, and a VAE's statistics, from the first of
    several folders (with commas between) that holds it: a folder of
    checkpoints, or an exported model."""
    for folder in folders.split(","):
        path = os.path.join(folder, name + ".safetensors")
        if os.path.exists(path):
            state = load_file(path)
            return state, {k[6:]: state.pop(k) for k in list(state)
                           if k.startswith("stats.")}
        path = os.path.join(folder, FOLDERS[name])
        if os.path.exists(path):
            stats = {}
            if name == "vae":
                with open(os.path.join(folder, "vae", "config.json"),
                          encoding="utf-8") as source:
                    config = json.load(source)
                stats = {k: torch.tensor(config["latents_" + k])
                         for k in ("mean", "std")}
            return load_file(path), stats
    raise SystemExit(f"no {name} in {folders}")


def load(folders, name, module, device):
    state, stats = read(folders, name)
    module.load_state_dict({k: v.float() for k, v in state.items()},
                           strict=name != "text")
    module.to(device)
    return {k: v.to(device) for k, v in stats.items()}


def load_nets(folders, vocabulary, device):
    vae, dit = models.make_vae(), models.make_dit()
    text = models.make_text(vocabulary)
    stats = load(folders, "vae", vae, device)
    load(folders, "dit", dit, device)
    load(folders, "text", text, device)
    return (vae.eval(), dit.eval(), text.eval()), stats


# ------------------------------------------------------ latents in memory

def draw(rng, count, frames, device, scene=data.sample_scene):
    scenes = [scene(rng) for _ in range(count)]
    return scenes, data.render(scenes, frames, device=device)


class Latents:
    """Encoded clips with several captions each, all on the device.

    With `keep`, a folder, they are written there, and read from there by the
    next stage on the same machine.
    """

    def __init__(self, vae, stats, tokenizer, count, device, seconds=1e9,
                 captions=3, chunk=32, seed=machine.SEED, latents=21,
                 keep=None, scene=data.sample_scene):
        begin = time.time()
        seed += 1000 * machine.rank()
        path = keep and os.path.join(keep, f"latents-{latents}-{seed}.pt")
        if path and os.path.exists(path):
            loaded = torch.load(path, map_location=device)
            self.z, self.ids, self.counts, self.labels = loaded
        else:
            self.encode(vae, stats, tokenizer, count, device, seconds,
                        captions, chunk, random.Random(seed),
                        4 * latents - 3, scene)
            if path:
                os.makedirs(keep, exist_ok=True)
                torch.save((self.z, self.ids, self.counts, self.labels),
                           path)
        machine.say(f"latents: {len(self.z)} clips of {latents} in "
                    f"{time.time() - begin:.1f} s")

    @torch.no_grad()
    def encode(self, vae, stats, tokenizer, count, device, seconds, captions,
               chunk, rng, frames, scene):
        begin = time.time()
        shape = (stats["mean"].numel(), 1, 1, 1)
        mean, std = stats["mean"].view(shape), stats["std"].view(shape)
        parts, tokens, counts, labels = [], [], [], []
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        while len(labels) < count and time.time() - begin < seconds:
            scenes, clip = draw(rng, min(chunk, count - len(labels)), frames,
                                device, scene)
            z = models.vae_encode(vae, clip, dtype)[0]
            parts.append(((z - mean) / std).to(torch.bfloat16))
            for scene in scenes:
                labels.append(data.labels(scene))
                for _ in range(captions):
                    ids = tokenizer.ids(data.caption(rng, scene))
                    counts.append(len(ids))
                    tokens.append(ids + [0] * (MAX_TOKENS - len(ids)))
        n = len(labels)
        self.z = torch.cat(parts)
        self.ids = torch.tensor(tokens, device=device).view(n, captions, -1)
        self.counts = torch.tensor(counts, device=device).view(n, captions)
        self.labels = torch.tensor(labels, device=device)

    def batch(self, n, frames=None):
        """n clips, a caption of each, and what it says."""
        device = self.z.device
        i = torch.randint(len(self.z), (n,), device=device)
        j = torch.randint(self.ids.shape[1], (n,), device=device)
        z = self.z[i]
        if frames:
            z = z[:, :, :frames]
        return z.float(), self.ids[i, j], self.counts[i, j], self.labels[i]

    def captions(self, n):
        """The same without the clips."""
        device = self.z.device
        i = torch.randint(len(self.z), (n,), device=device)
        j = torch.randint(self.ids.shape[1], (n,), device=device)
        return self.ids[i, j], self.counts[i, j], self.labels[i]
