"""Writes the evaluation prompts: scenes that training never saw.

Every (colour, shape, motion) triple that data.held_out() keeps from training
appears on six backgrounds; 40 more prompts name two such objects. Columns:
prompt, colour, shape, motion, background, colour2, shape2, motion2 (the last
three are empty for one object). The order is shuffled once, so that any
leading part of the file is balanced too.

    python3 prompts.py ../evaluate-prompts.tsv
"""
import random
import sys

import data

COLUMNS = ["prompt", "colour", "shape", "motion", "background", "colour2",
           "shape2", "motion2"]


def held_out_triples():
    return [(c, s, m) for m in data.MOTIONS for s in data.SHAPES
            for c in data.COLOUR_NAMES
            if data.exists(s, m) and data.held_out(c, s, m)]


def rows(seed=2025):
    rng = random.Random(seed)
    triples = held_out_triples()
    one = []
    spare = {c: 0 for c in data.COLOUR_NAMES}
    for triple in triples:
        # The least used backgrounds first keeps them balanced.
        grounds = [c for c in data.COLOUR_NAMES if c != triple[0]]
        rng.shuffle(grounds)
        for ground in sorted(grounds, key=spare.get)[:6]:
            spare[ground] += 1
            scene = data.scene_one(rng, triple, ground)
            one.append([data.caption(rng, scene, noise=False), *triple,
                        ground, "", "", ""])
    rng.shuffle(one)
    two = []
    while len(two) < 40:
        group = (data.ROW_MOTIONS, data.COLUMN_MOTIONS)[len(two) % 2]
        fit = [t for t in triples if t[2] in group]
        a, b = rng.sample(fit, 2)
        if a[0] == b[0]:
            continue
        scene = data.scene_two(rng, (a, b))
        two.append([data.caption(rng, scene, noise=False), *a,
                    scene["background"], *b])
    return one + two


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "../evaluate-prompts.tsv"
    with open(path, "w", encoding="utf-8") as out:
        out.write("\t".join(COLUMNS) + "\n")
        for row in rows():
            out.write("\t".join(row) + "\n")


if __name__ == "__main__":
    main()
