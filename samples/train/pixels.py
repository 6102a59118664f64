"""What clips show, measured on their pixels as samples/measure does: colours
by nearest palette entry, motion by medians over a few frames' distance, shape
by the best template.
"""
import math

import torch

import data

FOLD = {"circle": 1, "ring": 1, "square": 4, "triangle": 3, "star": 5,
        "cross": 4}
LAG = 4                       # frames between two looks at an object
MIN_SPEED, MIN_GROWTH, MIN_TURN = 7.0, 0.06, 0.06


def grid(device):
    ys = torch.arange(data.HEIGHT, device=device) + 0.5
    xs = torch.arange(data.WIDTH, device=device) + 0.5
    return ys.view(-1, 1), xs.view(1, -1)


def wrap(d, period):
    return torch.remainder(d + period / 2, period) - period / 2


def shape_areas(device):
    """Area of each shape of circumradius 1, measured on the drawing."""
    ys, xs = grid(device)
    y, x = ys - data.HEIGHT / 2, xs - data.WIDTH / 2
    return {s: float((0.5 - data.distance(s, x + 0 * y, y + 0 * x, 40.0))
                     .clamp(0, 1).sum()) / 1600 for s in data.SHAPES}


def palette(device):
    return torch.tensor(list(data.COLOURS.values()),
                        device=device) / 127.5 - 1


def coverage(pixels, ground, own, other=None):
    """How much of each pixel [B, T, H, W, 3] belongs to colour `own`, [B]."""
    def at(which):
        return palette(pixels.device)[which][:, None, None, None]
    line = at(own) - at(ground)
    alpha = ((pixels - at(ground)) * line).sum(-1) / line.pow(2).sum(-1)
    alpha = torch.where(alpha < 0.25, 0.0, alpha.clamp(max=1))
    if other is not None:
        far = (pixels - at(own)).pow(2).sum(-1)
        near = (pixels - at(other)).pow(2).sum(-1)
        alpha = torch.where(near < far, 0.0, alpha)
    return alpha


class Track:
    """An object's area and centre in each frame."""

    def __init__(self, alpha):
        self.alpha = alpha
        self.ys, self.xs = grid(alpha.device)
        self.area = alpha.sum((2, 3)).clamp(min=1e-3)             # [B, T]
        self.x = self.centre(self.xs, data.WIDTH)
        self.y = self.centre(self.ys, data.HEIGHT)

    def centre(self, places, size):
        a = 2 * math.pi * places / size
        s = (self.alpha * a.sin()).sum((2, 3))
        k = (self.alpha * a.cos()).sum((2, 3))
        return torch.remainder(torch.atan2(s, k) * size / (2 * math.pi),
                               size)

    def around(self, frame):
        """Offsets of a frame's pixels from the centre, each [B, H, W]."""
        dx = wrap(self.xs - self.x[:, frame, None, None], data.WIDTH)
        dy = wrap(self.ys - self.y[:, frame, None, None], data.HEIGHT)
        b = len(self.alpha)
        return (dx.expand(b, data.HEIGHT, -1), dy.expand(b, -1, data.WIDTH))

    def change(self, values, period=None):
        """The median change a second."""
        d = values[:, LAG:] - values[:, :-LAG]
        if period is not None:
            d = wrap(d, period)
        return d.median(1)[0] * data.RATE / LAG

    def shape(self):
        """Index of the best template in each clip, and its overlap."""
        device, frames = self.alpha.device, self.alpha.shape[1]
        areas = shape_areas(device)
        looks = [frames * i // 12 for i in (1, 3, 5, 7, 9, 11)]
        score = torch.zeros(len(self.alpha), len(data.SHAPES), device=device)
        for frame in looks:
            dx, dy = self.around(frame)
            m = self.alpha[:, frame]
            for i, shape in enumerate(data.SHAPES):
                r = (self.area[:, frame] / areas[shape]).sqrt()[:, None, None]
                turns = 1 if FOLD[shape] == 1 else 8
                best = torch.zeros(len(m), device=device)
                for step in range(turns):
                    a = 2 * math.pi * step / turns / FOLD[shape]
                    c, s = math.cos(a), math.sin(a)
                    d = data.distance(shape, c * dx + s * dy,
                                      c * dy - s * dx, r)
                    t = (0.5 - d).clamp(0, 1)
                    best = torch.maximum(
                        best, torch.minimum(t, m).sum((1, 2))
                        / torch.maximum(t, m).sum((1, 2)))
                score[:, i] += best / len(looks)
        fit, which = score.max(1)
        return which, fit

    def turn(self, fold):
        """Turns a second, from the angular moment of the shape's order."""
        phases = []
        for frame in range(self.alpha.shape[1]):
            dx, dy = self.around(frame)
            theta = torch.atan2(dy, dx) * fold[:, None, None]
            w = (self.alpha[:, frame]
                 * torch.hypot(dx, dy).div(32) ** fold[:, None, None])
            phases.append(torch.atan2((w * theta.sin()).sum((1, 2)),
                                      (w * theta.cos()).sum((1, 2))))
        phases = torch.stack(phases, 1) / (2 * math.pi)
        return self.change(phases, 1.0) / fold


def motion(vx, vy, growth, turn, fold):
    if math.hypot(vx, vy) > MIN_SPEED:
        if abs(vx) > abs(vy):
            return "right" if vx > 0 else "left"
        return "down" if vy > 0 else "up"
    if abs(growth) > MIN_GROWTH:
        return "growing" if growth > 0 else "shrinking"
    return "rotating" if fold > 1 and abs(turn) > MIN_TURN else "still"


@torch.no_grad()
def measure(clip, count):
    """Clips [B, 3, T, H, W] in -1..1 with `count` objects -> for each its
    background and a dictionary for each object."""
    device = clip.device
    pixels = clip.permute(0, 2, 3, 4, 1)
    some = pixels[:, ::4].reshape(len(clip), -1, 3)
    far, nearest = torch.cdist(
        some, palette(device).expand(len(clip), -1, -1)).min(-1)
    votes = torch.nn.functional.one_hot(nearest, len(data.COLOURS))
    votes = (votes * (far < 70 / 127.5).unsqueeze(-1)).sum(1)
    order = votes.argsort(1, descending=True)
    out = [(data.COLOUR_NAMES[g], []) for g in order[:, 0].tolist()]
    folds = torch.tensor([FOLD[s] for s in data.SHAPES], device=device)
    for k in range(1, count + 1):
        track = Track(coverage(pixels, order[:, 0], order[:, k],
                               order[:, 3 - k] if count == 2 else None))
        shape, fit = track.shape()
        fold = folds[shape]
        values = torch.stack([track.change(track.x, data.WIDTH),
                              track.change(track.y, data.HEIGHT),
                              track.change(0.5 * track.area.log()),
                              track.turn(fold), fit, fold], 1).tolist()
        for i, v in enumerate(values):
            out[i][1].append({
                "colour": data.COLOUR_NAMES[order[i, k]],
                "shape": data.SHAPES[shape[i]], "motion": motion(*v[:4], v[5]),
                "vx": v[0], "vy": v[1], "growth": v[2], "turn": v[3],
                "fit": v[4]})
    return out
