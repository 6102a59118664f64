"""Muon and AdamW on one flat vector of weights.

All weights of the trained modules become views of one vector, and so do their
gradients: averaging over processes, clipping and the moving average are then
one operation each, and nothing waits for the GPU, so that a step can be
recorded as a CUDA graph.
"""
import math

import torch

import machine

ALIGN = 64
HIDDEN = ("attn", "ffn", "SelfAttention", "DenseReluDense", "resnets",
          "conv1", "conv2", "resample", "time_conv")


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


def is_matrix(name, p):
    return (any(k in name for k in HIDDEN) and p.dim() > 1
            and "relative" not in name and "embed_tokens" not in name
            and min(p.flatten(1).shape) >= 16)


class Optimiser:
    """Muon for the large matrices, AdamW for everything else."""

    def __init__(self, modules, lr=2e-3, adam_lr=1e-3, muon=True):
        groups, small, seen = {}, [], set()
        for module in modules:
            for name, p in module.named_parameters():
                if not p.requires_grad or id(p) in seen:
                    continue
                seen.add(id(p))
                if muon and is_matrix(name, p):
                    groups.setdefault(tuple(p.flatten(1).shape),
                                      []).append(p)
                else:
                    small.append(p)
        self.params = [p for g in groups.values() for p in g] + small
        where = self.params[0].device
        places, size = [], 0
        for p in self.params:
            places.append(size)
            size += -(-p.numel() // ALIGN) * ALIGN
        self.flat = torch.zeros(size, device=where)
        self.grad = torch.zeros_like(self.flat)
        self.grads = []
        with torch.no_grad():
            for p, at in zip(self.params, places):
                view = self.flat[at:at + p.numel()].view(p.shape)
                view.copy_(p)
                p.data = view
                self.grads.append(self.grad[at:at + p.numel()].view(p.shape))
        self.matrices, first = [], 0
        for shape, group in groups.items():
            begin = places[first]
            end = begin + len(group) * shape[0] * shape[1]
            first += len(group)
            if len(group) > 1 and places[first - 1] + group[-1].numel() != end:
                raise ValueError(f"matrices of {shape} are not contiguous")
            self.matrices.append([v[begin:end].view(len(group), *shape)
                                  for v in (self.flat, self.grad)]
                                 + [torch.zeros(len(group), *shape,
                                                device=where)])
        tail = places[first] if first < len(places) else size
        self.rest = self.flat[tail:], self.grad[tail:]
        self.first, self.second = (torch.zeros_like(self.rest[0])
                                   for _ in range(2))
        self.count = torch.zeros((), device=where)
        self.factor = torch.zeros((), device=where)
        self.norm = torch.zeros((), device=where)
        self.lr, self.adam_lr = lr, adam_lr

    def backward(self, loss):
        """Gradients of a loss, into the flat vector."""
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        pairs = [(a, b) for a, b in zip(self.grads, grads) if b is not None]
        if len(pairs) < len(self.grads):
            self.grad.zero_()
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])

    def set_rate(self, factor):
        self.factor.fill_(factor)

    @torch.no_grad()
    def update(self):
        """One step along self.grad, with self.factor times the rates."""
        self.norm.copy_(self.grad.norm())
        # A step that overflowed is left out.
        clip = torch.where(self.norm.isfinite(),
                           (1 / (self.norm + 1e-6)).clamp(max=1), 0.0)
        self.grad.nan_to_num_(0.0, 0.0, 0.0).mul_(clip)
        for weight, g, m in self.matrices:
            m.lerp_(g, 0.05)
            u = orthogonal(g.lerp(m, 0.95)).float()
            # The scale that gives Muon the step size of Adam.
            size = 0.2 * math.sqrt(max(u.shape[-2:])) * self.lr
            weight.mul_(1 - 0.01 * self.lr * self.factor)
            weight.sub_(u.mul_(size * self.factor))
        weight, g = self.rest
        self.count.add_(1)
        self.first.lerp_(g, 1 - 0.9)
        self.second.lerp_(g * g, 1 - 0.98)
        m = self.first / (1 - 0.9 ** self.count)
        v = self.second / (1 - 0.98 ** self.count)
        weight.sub_(m / (v.sqrt() + 1e-8) * (self.adam_lr * self.factor))

    def step(self, factor):
        """Averages over processes and updates; for steps not recorded."""
        machine.average(self.grad)
        self.set_rate(factor)
        self.update()
        return self.norm


class Average:
    """An exponential moving average of the weights."""

    def __init__(self, optimiser, decay=0.998):
        self.live = optimiser.flat
        self.mean = self.live.clone()
        self.decay = decay
        self.count = torch.zeros((), device=self.live.device)

    @torch.no_grad()
    def update(self):
        self.count.add_(1)
        keep = (self.count / (self.count + 10)).clamp(max=self.decay)
        self.mean.add_((self.live - self.mean) * (1 - keep))

    @torch.no_grad()
    def swap(self):
        """Exchanges the live weights and the average."""
        t = self.live.clone()
        self.live.copy_(self.mean)
        self.mean.copy_(t)
