"""What the training stages share: a clock, an optimiser, checkpoints, the
latent data set."""
import math
import os
import random
import time

import torch
from safetensors.torch import load_file, save_file

import data
import models

# Training needs no deterministic kernels, only fixed random numbers.
SEED = 20


def setup():
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def cast(device):
    return torch.autocast(device.type, torch.bfloat16,
                          enabled=device.type == "cuda")


class Clock:
    """A stage ends after so many minutes or steps, whichever is first."""

    def __init__(self, minutes, steps):
        self.seconds, self.steps = minutes * 60, steps
        self.begin = time.time()
        self.step = 0
        self.last_print = self.last_save = self.begin

    def part(self):
        done = (time.time() - self.begin) / self.seconds
        if self.steps:
            done = max(done, self.step / self.steps)
        return done

    def due(self, name, seconds):
        now = time.time()
        if now - getattr(self, name) < seconds:
            return False
        setattr(self, name, now)
        return True

    def elapsed(self):
        return time.time() - self.begin


def rate_factor(done, warm=0.03, floor=0.02):
    """Warm-up, a plateau, then a straight line down."""
    if done < warm:
        return (done + 1e-3) / (warm + 1e-3)
    return max(floor, min(1.0, (1.0 - done) / 0.6))


def orthogonal(g):
    """The Newton-Schulz iteration of Muon on a batch of matrices."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if flip else x


class Optimiser:
    """Muon for the large matrices, AdamW for everything else."""

    def __init__(self, modules, lr=2e-3, adam_lr=1e-3, muon=True):
        big, small, seen = {}, [], set()
        for module in modules:
            for name, p in module.named_parameters():
                if not p.requires_grad or id(p) in seen:
                    continue
                seen.add(id(p))
                flat = p.flatten(1) if p.dim() > 1 else p
                hidden = any(k in name for k in (
                    "attn", "ffn", "SelfAttention", "DenseReluDense",
                    "resnets", "conv1", "conv2", "resample", "time_conv"))
                if (muon and hidden and p.dim() > 1
                        and min(flat.shape) >= 16
                        and "relative" not in name):
                    big.setdefault(tuple(flat.shape), []).append(p)
                else:
                    small.append(p)
        self.big = list(big.values())
        self.momentum = [torch.zeros(len(g), *g[0].flatten(1).shape,
                                     device=g[0].device) for g in self.big]
        fused = small[0].is_cuda
        self.adam = torch.optim.AdamW(small, lr=adam_lr, betas=(0.9, 0.98),
                                      weight_decay=0.0, fused=fused)
        self.lr, self.adam_lr = lr, adam_lr
        self.all = [p for g in self.big for p in g] + small

    @torch.no_grad()
    def step(self, factor):
        norm = torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        for group, m in zip(self.big, self.momentum):
            grads = [p.grad if p.grad is not None else torch.zeros_like(p)
                     for p in group]
            g = torch.stack([x.flatten(1) for x in grads])
            m.lerp_(g, 0.05)
            u = orthogonal(g.lerp(m, 0.95))
            # The scale that gives Muon the step size of Adam.
            size = 0.2 * math.sqrt(max(u.shape[-2:])) * self.lr * factor
            shape = group[0].shape
            torch._foreach_mul_(group, 1 - 0.01 * self.lr * factor)
            torch._foreach_add_(group, [x.view(shape).to(group[0].dtype)
                                        for x in u.float().mul_(-size)])
        for g in self.adam.param_groups:
            g["lr"] = self.adam_lr * factor
        self.adam.step()
        for p in self.all:
            p.grad = None
        return norm


class Average:
    """An exponential moving average of the weights."""

    def __init__(self, modules, decay=0.998):
        self.live = [p for m in modules for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self):
        self.count += 1
        d = min(self.decay, self.count / (self.count + 10))
        torch._foreach_lerp_(self.mean, self.live, 1 - d)

    @torch.no_grad()
    def swap(self):
        """Exchanges the live weights and the average."""
        for a, b in zip(self.live, self.mean):
            t = a.detach().clone()
            a.copy_(b)
            b.copy_(t)


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


def load(folder, name, module, device):
    state = load_file(os.path.join(folder, name + ".safetensors"))
    stats = {k[6:]: state.pop(k).to(device) for k in list(state)
             if k.startswith("stats.")}
    module.load_state_dict({k: v.float() for k, v in state.items()},
                           strict=name != "text")
    module.to(device)
    return stats


def find(folders, name):
    """The first of several folders that holds a checkpoint."""
    for folder in folders.split(","):
        if os.path.exists(os.path.join(folder, name + ".safetensors")):
            return folder
    raise SystemExit(f"no {name}.safetensors in {folders}")


# ------------------------------------------------------ latents in memory

class Latents:
    """Encoded clips with several captions each, all on the device."""

    def __init__(self, vae, stats, tokenizer, count, device, seconds=1e9,
                 captions=3, chunk=32, seed=SEED, frames=data.FRAMES):
        rng = random.Random(seed)
        begin = time.time()
        shape = (stats["mean"].numel(), 1, 1, 1)
        mean, std = stats["mean"].view(shape), stats["std"].view(shape)
        parts, tokens, counts, labels = [], [], [], []
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        done = 0
        while done < count and time.time() - begin < seconds:
            scenes = [data.sample_scene(rng)
                      for _ in range(min(chunk, count - done))]
            with torch.no_grad():
                clip = data.render(scenes, frames, device=device)
                z = models.vae_encode(vae, clip, dtype)[0]
                parts.append(((z - mean) / std).to(torch.bfloat16))
            for scene in scenes:
                labels.append(data.labels(scene))
                for _ in range(captions):
                    ids = tokenizer.ids(data.caption(rng, scene))
                    counts.append(len(ids))
                    tokens.append(ids + [0] * (48 - len(ids)))
            done += len(scenes)
        self.z = torch.cat(parts)
        self.ids = torch.tensor(tokens, device=device).view(done, captions,
                                                            48)
        self.counts = torch.tensor(counts, device=device).view(done,
                                                               captions)
        self.labels = torch.tensor(labels, device=device)
        print(f"latents: {done} clips in {time.time() - begin:.1f} s",
              flush=True)

    def batch(self, n, frames=None, labels=False):
        """n clips with a caption each, and what it says when asked."""
        device = self.z.device
        i = torch.randint(len(self.z), (n,), device=device)
        j = torch.randint(self.ids.shape[1], (n,), device=device)
        z = self.z[i]
        if frames:
            z = z[:, :, :frames]
        out = (z.float(), self.ids[i, j, :47], self.counts[i, j])
        return (*out, self.labels[i]) if labels else out

    def captions(self, n):
        """n captions with what they say (data.CLASSES), without latents."""
        device = self.z.device
        i = torch.randint(len(self.z), (n,), device=device)
        j = torch.randint(self.ids.shape[1], (n,), device=device)
        return self.ids[i, j, :47], self.counts[i, j], self.labels[i]
