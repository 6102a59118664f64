"""The world of the sample model: what a clip shows, how it is drawn, how it
is described.

A scene is a plain background with one or two flat shapes in motion on a
toroidal canvas of 160x96 pixels at 16 frames/s. Clips are drawn by batched
signed distance functions, so nothing is stored. 10 % of all (colour, shape,
motion) triples are held out of training: see held_out().
"""
import random

import torch

WIDTH, HEIGHT, RATE, FRAMES = 160, 96, 16, 81

COLOURS = {
    "red": (225, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 225),
    "yellow": (245, 215, 50), "orange": (250, 135, 30),
    "purple": (140, 60, 190), "pink": (250, 150, 195),
    "cyan": (50, 205, 220), "white": (243, 243, 243), "black": (22, 22, 22),
}
COLOUR_NAMES = list(COLOURS)
SHAPES = ["circle", "square", "triangle", "star", "cross", "ring"]
MOTIONS = ["left", "right", "up", "down", "still", "growing", "shrinking",
           "rotating"]
NO_ROTATION = ("circle", "ring")      # a turn of these cannot be seen

# Objects are several cells of the latent grid wide (8 pixels), or a small
# transformer cannot give them a shape, and where they are and how fast they
# move varies little: what the prompt leaves open has to be decided in the
# first of four steps.
RADIUS = (22, 29)
RADIUS_ROTATING = (25, 31)
RADIUS_TWO_ROWS = (16, 21)
RADIUS_TWO_COLUMNS = (16, 22)
SPEED = (18, 26)

# Radii of growing and shrinking objects, and how long one ramp lasts.
RAMP = (15.0, 40.0)
RAMP_TWO = (13.0, 25.0)
RAMP_SECONDS = (4.8, 5.3)

# Two objects keep apart: stacked in two rows when one moves sideways, else
# side by side. The first object named is the upper or the left one.
ROW_MOTIONS = ("left", "right", "still", "rotating")
COLUMN_MOTIONS = ("up", "down", "still", "rotating", "growing", "shrinking")


def held_out(colour, shape, motion):
    """True for the triples that training never sees.

    With the positions c, s, m of the three words in the lists above:
    (c + 3 s + 7 m) mod 10 == 0, that is one colour of ten for each pair of
    shape and motion.
    """
    c = COLOUR_NAMES.index(colour)
    s = SHAPES.index(shape)
    m = MOTIONS.index(motion)
    return (c + 3 * s + 7 * m) % 10 == 0


def exists(shape, motion):
    return not (motion == "rotating" and shape in NO_ROTATION)


# ---------------------------------------------------------------- scenes

def pick_triple(rng, motions=MOTIONS, colours=COLOUR_NAMES):
    """A (colour, shape, motion) triple that training may see."""
    while True:
        motion = rng.choice(motions)
        shape = rng.choice(SHAPES)
        colour = rng.choice(colours)
        if exists(shape, motion) and not held_out(colour, shape, motion):
            return colour, shape, motion


def place(rng, triple, where, spread, radius, ramp):
    """An object: where it starts and how it moves."""
    colour, shape, motion = triple
    speed = rng.uniform(*SPEED)
    # Most ramps start near their beginning, so that a clip shows one long
    # growth; the others show that a ramp starts again.
    phase = rng.uniform(0, 0.08) if rng.random() < 0.8 else rng.random()
    return {
        "colour": colour, "shape": shape, "motion": motion,
        "x": where[0] + rng.uniform(-spread[0], spread[0]),
        "y": where[1] + rng.uniform(-spread[1], spread[1]),
        "vx": {"left": -speed, "right": speed}.get(motion, 0.0),
        "vy": {"up": -speed, "down": speed}.get(motion, 0.0),
        "r": rng.uniform(*radius), "ramp": ramp, "phase": phase,
        "period": rng.uniform(*RAMP_SECONDS),
        "angle": rng.uniform(-0.2, 0.2) if motion == "rotating" else 0.0,
        "turn": rng.uniform(0.15, 0.27) if motion == "rotating" else 0.0,
    }


def scene_one(rng, triple=None, background=None):
    triple = triple or pick_triple(rng)
    background = background or rng.choice(
        [c for c in COLOUR_NAMES if c != triple[0]])
    radius = RADIUS_ROTATING if triple[2] == "rotating" else RADIUS
    centre = (WIDTH / 2, HEIGHT / 2)
    return {"background": background,
            "objects": [place(rng, triple, centre, (12, 6), radius, RAMP)]}


def scene_two(rng, triples=None, background=None):
    if triples is None:
        motions = rng.choice([ROW_MOTIONS, COLUMN_MOTIONS])
        first = pick_triple(rng, motions)
        second = pick_triple(rng, motions,
                             [c for c in COLOUR_NAMES if c != first[0]])
        triples = (first, second)
    taken = (triples[0][0], triples[1][0])
    background = background or rng.choice(
        [c for c in COLOUR_NAMES if c not in taken])
    rows = any(t[2] in ("left", "right") for t in triples)
    if rows:
        spots, spread = ((80, 24), (80, 72)), (14, 1.5)
        radius = RADIUS_TWO_ROWS
    else:
        spots, spread = ((40, 48), (120, 48)), (5, 6)
        radius = RADIUS_TWO_COLUMNS
    return {"background": background,
            "objects": [place(rng, t, s, spread, radius, RAMP_TWO)
                        for t, s in zip(triples, spots)]}


def sample_scene(rng, two=0.3):
    return scene_two(rng) if rng.random() < two else scene_one(rng)


# --------------------------------------------------------------- drawing

def distance(shape, x, y, r):
    """Signed distance in pixels to the edge of a shape of circumradius r."""
    if shape == "circle":
        return torch.hypot(x, y) - r
    if shape == "ring":
        return (torch.hypot(x, y) - 0.75 * r).abs() - 0.25 * r
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - r * 0.70711
    if shape == "triangle":
        half = 0.866025 * x.abs() - 0.5 * y
        return torch.maximum(half, y) - 0.5 * r
    if shape == "cross":
        a, b = x.abs(), y.abs()
        arm = r / 1.077033
        one = torch.maximum(a - arm, b - 0.4 * arm)
        two = torch.maximum(a - 0.4 * arm, b - arm)
        return torch.minimum(one, two)
    # Five-pointed star: fold the plane onto one tenth, then one edge.
    kx, ky = 0.809016994, -0.587785252
    a, b = x.abs(), -y
    d = 2 * torch.clamp(kx * a + ky * b, min=0)
    a, b = a - d * kx, b - d * ky
    d = 2 * torch.clamp(-kx * a + ky * b, min=0)
    a, b = a + d * kx, b - d * ky
    a, b = a.abs(), b - r
    bax, bay = 0.45 * -ky * r, 0.45 * kx * r - r
    h = ((a * bax + b * bay) / (bax * bax + bay * bay)).clamp(0, 1)
    side = b * bax - a * bay
    return torch.hypot(a - bax * h, b - bay * h) * torch.sign(side)


def render(scenes, frames=FRAMES, first=0, device="cpu"):
    """Clips [batch, 3, frames, height, width] in -1..1, float32.

    `first` (one number, or one a scene) is the index of the first frame.
    """
    n = len(scenes)
    if isinstance(first, int):
        first = [first] * n
    start = torch.tensor(first, dtype=torch.float32)
    t = ((start[:, None] + torch.arange(frames)) / RATE).to(device)
    xs = (torch.arange(WIDTH, device=device) + 0.5).view(1, 1, 1, WIDTH)
    ys = (torch.arange(HEIGHT, device=device) + 0.5).view(1, 1, HEIGHT, 1)
    palette = torch.tensor(list(COLOURS.values()), device=device) / 127.5 - 1
    paint = [COLOUR_NAMES.index(s["background"]) for s in scenes]
    clip = palette[paint].view(n, 3, 1, 1, 1)
    clip = clip.expand(n, 3, frames, HEIGHT, WIDTH).clone()
    for slot in range(2):
        for shape in SHAPES:
            ids = [i for i, s in enumerate(scenes)
                   if len(s["objects"]) > slot
                   and s["objects"][slot]["shape"] == shape]
            if not ids:
                continue
            objects = [scenes[i]["objects"][slot] for i in ids]
            values = torch.tensor(
                [[o["x"], o["y"], o["vx"], o["vy"], o["r"], o["ramp"][0],
                  o["ramp"][1], o["phase"], o["period"], o["angle"],
                  o["turn"], {"growing": 1, "shrinking": 2}.get(
                      o["motion"], 0)] for o in objects], device=device)
            (x, y, vx, vy, r, r0, r1, phase, period, angle, turn,
             kind) = values.unsqueeze(-1).unbind(1)     # each [ids, 1]
            time = t[ids]                               # [ids, frames]
            ramp = torch.remainder(phase + time / period, 1.0)
            r = torch.where(kind == 1, r0 + (r1 - r0) * ramp,
                            torch.where(kind == 2, r1 - (r1 - r0) * ramp,
                                        r.expand_as(time)))
            # y points down, so a growing angle turns clockwise.
            a = (angle + 6.2831853 * turn * time)[..., None, None]
            px = xs - (x + vx * time)[..., None, None]
            py = ys - (y + vy * time)[..., None, None]
            px = torch.remainder(px + WIDTH / 2, WIDTH) - WIDTH / 2
            py = torch.remainder(py + HEIGHT / 2, HEIGHT) - HEIGHT / 2
            c, s = torch.cos(a), torch.sin(a)
            d = distance(shape, c * px + s * py, c * py - s * px,
                         r[..., None, None])
            cover = (0.5 - d).clamp(0, 1).unsqueeze(1)
            colour = palette[[COLOUR_NAMES.index(o["colour"])
                              for o in objects]].view(-1, 3, 1, 1, 1)
            index = torch.tensor(ids, device=device)
            clip[index] = clip[index] * (1 - cover) + colour * cover
    return clip


# -------------------------------------------------------------- captions

COLOUR_WORDS = {"purple": ["purple", "purple", "violet"],
                "cyan": ["cyan", "cyan", "turquoise"]}
SHAPE_WORDS = {
    "circle": ["circle", "circle", "circle", "disc", "disk", "dot", "ball"],
    "square": ["square", "square", "square", "box", "block"],
    "triangle": ["triangle"],
    "star": ["star", "star", "star", "five-pointed star"],
    "cross": ["cross", "cross", "cross", "plus sign", "plus"],
    "ring": ["ring", "ring", "ring", "hoop", "donut"],
}


def sideways(way, other):
    verbs = [("moves", "moving"), ("moves", "moving"), ("moves", "moving"),
             ("slides", "sliding"), ("drifts", "drifting"),
             ("goes", "going"), ("travels", "travelling"),
             ("glides", "gliding"), ("flies", "flying")]
    ways = [way, way, way, f"to the {way}", f"to the {way}", f"{way}wards",
            f"towards the {way}", f"from {other} to {way}"]
    return [(f"{a} {w}", f"{b} {w}") for a, b in verbs for w in ways]


def vertical(way, end, other, extra):
    verbs = [("moves", "moving"), ("moves", "moving"), ("moves", "moving"),
             ("slides", "sliding"), ("drifts", "drifting"),
             ("goes", "going"), ("floats", "floating")]
    ways = [way, way, way, f"{way}ward", f"{way}wards",
            f"from {other} to {end}", f"to the {end}"]
    return [(f"{a} {w}", f"{b} {w}") for a, b in verbs for w in ways] + extra


MOTION_WORDS = {
    "left": sideways("left", "right"),
    "right": sideways("right", "left"),
    "up": vertical("up", "top", "bottom",
                   [("rises", "rising")] * 6 + [("climbs", "climbing")] * 2),
    "down": vertical("down", "bottom", "top",
                     [("falls", "falling")] * 6 + [("sinks", "sinking")] * 2),
    "still": [("stays still", "staying still"), ("is still", "at rest"),
              ("stays still", "standing still"), ("rests", "resting"),
              ("stands still", "standing still"),
              ("does not move", "not moving"),
              ("doesn't move", "without motion"),
              ("remains still", "motionless"),
              ("is motionless", "stationary"), ("stays in place", "static")],
    "growing": [("grows", "growing"), ("grows", "growing"),
                ("gets bigger", "getting bigger"),
                ("gets larger", "getting larger"),
                ("becomes larger", "becoming larger"),
                ("expands", "expanding"), ("grows larger", "growing larger")],
    "shrinking": [("shrinks", "shrinking"), ("shrinks", "shrinking"),
                  ("gets smaller", "getting smaller"),
                  ("becomes smaller", "becoming smaller"),
                  ("contracts", "contracting"),
                  ("shrinks away", "shrinking away")],
    "rotating": [("rotates", "rotating"), ("rotates", "rotating"),
                 ("spins", "spinning"), ("turns", "turning"),
                 ("spins around", "spinning around"),
                 ("turns around", "turning around"),
                 ("rotates in place", "rotating in place")],
}

LEADS = ["a photo of", "a video of", "a clip of", "an animation of",
         "there is", "we see", "cinematic,", "a simple animation of",
         "imagine", "a picture of", "flat design,", "please show",
         "a beautiful shot of", "a scene with", "minimalist,"]
TAILS = [", high quality", ", 4k", ", flat design", ", smooth motion",
         ", simple animation", ", cinematic", ", very detailed", " please",
         ", slow motion", ", centered", ", minimal style", ", seamless loop"]

# Words that mean nothing here; they teach the text encoder to pass over
# what it does not know.
FILLERS = """time year people way day man thing woman life child world school
state family student group country problem hand part place case week company
system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business
issue side kind head house service friend father power hour game line end
member law car city community name president team minute idea kid body
information back parent face others level office door health person art war
history party result change morning reason research girl guy moment air
teacher force education foot boy age policy music market sense nation plan
college interest death experience effect use class control field development
role effort rate heart drug show leader light voice wife police mind price
report decision son view relationship town road arm difference value building
action season society tax director position player record paper space ground
form event official matter center couple site project activity table need
court oil situation cost industry figure street image phone data picture
practice piece land product doctor wall news test movie north love support
dog cat horse bird tree flower mountain river ocean beach forest sky cloud
sun moon rain snow wind fire stone glass metal wood paper silk golden silver
warm cold bright dark soft hard quiet loud fast slow old new young happy sad
lovely strange gentle elegant modern vintage dramatic detailed realistic
cartoon painting drawing sketch render studio lighting camera lens focus shot
close wide angle aerial drone view landscape portrait texture pattern colour
style mood scene background quality resolution frame motion movement""".split()


def article(rng, phrase, the=False):
    style = rng.random()
    if the or style < 0.15:
        return "the " + phrase
    if style < 0.3:
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def colour_word(rng, colour):
    return rng.choice(COLOUR_WORDS.get(colour, [colour]))


def object_phrase(rng, o, with_motion=True):
    """("a red circle", "moves right", "moving right")"""
    name = colour_word(rng, o["colour"]) + " "
    name += rng.choice(SHAPE_WORDS[o["shape"]])
    verb, ing = rng.choice(MOTION_WORDS[o["motion"]])
    return article(rng, name), verb, ing


def caption(rng, scene, noise=True):
    """One of many wordings for a scene; `noise` adds meaningless words."""
    back = colour_word(rng, scene["background"])
    ground = rng.choice(["background", "background", "background",
                         "backdrop"])
    a_back = ("an " if back[0] in "aeiou" else "a ") + back
    parts = [object_phrase(rng, o) for o in scene["objects"]]
    style = rng.random()
    if style < 0.72:
        if len(parts) == 1 or rng.random() < 0.5:
            joined = [f"{p[0]} {rng.choice(p[1:])}" for p in parts]
        else:
            joined = [f"{p[0]} that {p[1]}" for p in parts]
        text = rng.choice([" and ", ", ", " and "]).join(joined)
        text += rng.choice([
            f" on {a_back} {ground}", f" on {a_back} {ground}",
            f" on {a_back} {ground}", f" on {a_back} {ground}",
            f" over {a_back} {ground}", f" over {back}", f" on {back}",
            f" against {a_back} {ground}", f" in front of {a_back} {ground}",
            f" on the {back} {ground}", f", {back} {ground}",
            f"; the {ground} is {back}", f", the {ground} is {back}"])
    elif style < 0.86:
        joined = " and ".join(f"{p[0]} {p[2]}" for p in parts)
        text = rng.choice([f"{a_back} {ground} with {joined}",
                           f"{back} {ground} with {joined}",
                           f"{back} {ground}, {joined}",
                           f"on {a_back} {ground}, {joined}"])
    else:
        joined = " and ".join(f"{p[0]} {p[1]}" for p in parts)
        text = rng.choice([f"on {a_back} {ground}, {joined}",
                           f"on {back}, {joined}",
                           f"{back} {ground}. {joined}",
                           f"the {ground} is {back} and {joined}"])
    if noise and rng.random() < 0.15:
        text = rng.choice(LEADS) + " " + text
    if noise and rng.random() < 0.12:
        text += rng.choice(TAILS)
    if noise and rng.random() < 0.08:
        extra = " ".join(rng.choices(FILLERS, k=rng.randint(1, 4)))
        text = rng.choice([extra + ", " + text, text + ", " + extra,
                           extra + " " + text])
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.35:
        text += "."
    if noise and rng.random() < 0.02:
        text = text.upper()
    return text


# Classes of what a caption says: colour, shape, motion, background, and the
# second object's three, which may be absent.
CLASSES = [len(COLOUR_NAMES), len(SHAPES), len(MOTIONS), len(COLOUR_NAMES),
           len(COLOUR_NAMES) + 1, len(SHAPES) + 1, len(MOTIONS) + 1]


def labels(scene):
    out = []
    for slot in range(2):
        if slot < len(scene["objects"]):
            o = scene["objects"][slot]
            out += [COLOUR_NAMES.index(o["colour"]),
                    SHAPES.index(o["shape"]), MOTIONS.index(o["motion"])]
        else:
            out += [len(COLOUR_NAMES), len(SHAPES), len(MOTIONS)]
        if slot == 0:
            out.append(COLOUR_NAMES.index(scene["background"]))
    return out


if __name__ == "__main__":
    demo = random.Random(1)
    for _ in range(12):
        print(caption(demo, sample_scene(demo)))
