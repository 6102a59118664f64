#!/usr/bin/env python3
"""The results of suite.py as a chart: seconds to the last frame over steps,
and the memory that each of them takes. SVG, written as it is: no libraries.

SPDX-License-Identifier: BSD-2-Clause

    python3 tests/bench/chart.py build/bench/results.jsonl chart.svg
"""
import json
import math
import sys
from xml.sax.saxutils import escape

WIDTH, TOP, PLOT, ROW = 960, 86, 380, 22
LEFT, RIGHT = 62, 660 # of the lines; their names stand behind
INK, FAINT, PAPER = "#222222", "#d9d9d9", "#ffffff"
# After Okabe and Ito, darker where they are also the colour of words.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333", "#b87f00",
           "#6a4fb3", "#8a8a00")
DASHES = ("", "7 4", "2 3", "9 3 2 3")
FONT = "font-family=\"Helvetica, Arial, sans-serif\""


def text(x, y, words, size=12, anchor="start", colour=INK, bold=False):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
            f'text-anchor="{anchor}" fill="{colour}"'
            f'{" font-weight=" + chr(34) + "bold" + chr(34) if bold else ""}>'
            f'{escape(words)}</text>')


def line(x0, y0, x1, y1, colour=FAINT, width=1.0):
    return (f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" '
            f'stroke="{colour}" stroke-width="{width}"/>')


def series_of(lines):
    """[((model, precision), size, [(steps, seconds, GB)])], runs without a
    limit to memory; names in the order in which they came."""
    found = {}
    for entry in lines:
        if "bench" in entry and entry["vram"] == "-":
            b = entry["bench"]
            key = (entry["model"], entry["precision"]), entry["size"]
            found.setdefault(key, {})[entry["steps"]] = (
                b["last_frame_s"], b["measured_gb"])
    return [(who, size, [(n, *points[n]) for n in sorted(points)])
            for (who, size), points in found.items()]


def ticks(low, high):
    """1, 2, 5, 10, ... around the values, for a logarithmic axis."""
    out, n = [], math.floor(math.log10(low))
    while not out or out[-1] < high:
        out += [m * 10 ** n for m in (1, 2, 5)]
        n += 1
    first = max(i for i, t in enumerate(out) if t <= low * 1.0001)
    last = min(i for i, t in enumerate(out) if t >= high * 0.9999)
    return out[first:last + 1]


def spread(wanted, gap):
    """Places as wanted, top to bottom, moved as little as keeps the gap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups = [] # [sum of wanted places less offsets, members]
    for i in order:
        groups.append([wanted[i], [i]])
        while len(groups) > 1 and (
                groups[-2][0] / len(groups[-2][1]) + gap * len(groups[-2][1]) >
                groups[-1][0] / len(groups[-1][1])):
            total, members = groups.pop()
            offset = gap * len(groups[-1][1])
            groups[-1][0] += total - offset * len(members)
            groups[-1][1] += members
    out = [0.0] * len(wanted)
    for total, members in groups:
        for place, i in enumerate(members):
            out[i] = total / len(members) + gap * place
    return out


def style(series):
    """Colour by model and precision, dashes by size."""
    names, sizes = [], []
    for who, size, _ in series:
        names += [who] if who not in names else []
        sizes += [size] if size not in sizes else []
    return lambda who, size: (COLOURS[names.index(who) % len(COLOURS)],
                              DASHES[sizes.index(size) % len(DASHES)])


def draw_lines(series, look):
    steps = [n for _, _, points in series for n, _, _ in points]
    seconds = [s for _, _, points in series for _, s, _ in points]
    marks = ticks(min(seconds), max(seconds))
    low, high = math.log(marks[0]), math.log(marks[-1])
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(n):
        return LEFT + 18 + (n - first) / (last - first) * (RIGHT - LEFT - 36)

    def y(s):
        return TOP + PLOT - (math.log(s) - low) / max(high - low, 1e-9) * PLOT

    out = [text(LEFT, TOP - 14, "seconds from the prompt to the last frame",
                12, colour="#555555")]
    for mark in marks:
        out += [line(LEFT, y(mark), RIGHT, y(mark)),
                text(LEFT - 8, y(mark) + 4, f"{mark:g}", anchor="end")]
    for n in range(first, last + 1):
        out += [line(x(n), TOP + PLOT, x(n), TOP + PLOT + 5, INK),
                text(x(n), TOP + PLOT + 20, str(n), anchor="middle")]
    out += [line(LEFT, TOP + PLOT, RIGHT, TOP + PLOT, INK),
            text((LEFT + RIGHT) / 2, TOP + PLOT + 38, "denoising steps",
                 anchor="middle")]
    places = spread([y(points[-1][1]) for _, _, points in series], 17)
    for (who, size, points), place in zip(series, places):
        colour, dash = look(who, size)
        path = " ".join(f"{x(n):.1f},{y(s):.1f}" for n, s, _ in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" '
                   f'stroke-width="2"{dashes}/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(s):.1f}" r="3.5" '
                f'fill="{colour}"/>' for n, s, _ in points]
        n, s, _ = points[-1]
        out += [line(x(n) + 6, y(s), RIGHT + 6, place, colour, 0.6),
                text(RIGHT + 10, place + 4, f"{' '.join(who)}, {size}: "
                     f"{s:.3g} s", 11, colour=colour)]
    return out


def draw_bars(series, look, top):
    """Memory: the most of each series; steps do not change it."""
    bars = [(who, size, max(gb for _, _, gb in points))
            for who, size, points in series]
    most = max(gb for _, _, gb in bars)
    left = 250
    out = [text(LEFT, top - 12, "memory, GB", 12,
                colour="#555555")]
    for i, (who, size, gb) in enumerate(bars):
        y = top + i * ROW
        length = gb / most * (WIDTH - left - 80)
        colour, dash = look(who, size)
        shade = ' fill-opacity="0.55"' if dash else ""
        out += [text(left - 8, y + 13, f"{' '.join(who)}, {size}", 11, "end"),
                f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" '
                f'height="{ROW - 7}" fill="{colour}"{shade}/>',
                text(left + length + 6, y + 13, f"{gb:.3g}", 11)]
    return out


def draw(lines):
    """The SVG, or None where there is nothing to draw."""
    series = series_of(lines)
    if not series:
        return None
    look = style(series)
    best = [entry for entry in lines if "bench" in entry][-1]
    b = best["bench"]
    top = TOP + PLOT + 86
    height = top + ROW * len(series) + 16
    frames = sorted({entry["frames"] for entry in lines if "bench" in entry})
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
           f'height="{height}" viewBox="0 0 {WIDTH} {height}" {FONT}>',
           f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
           text(LEFT, 28, "Steps, time and memory of a clip", 18, bold=True),
           text(LEFT, 48, ", ".join(str(n) for n in frames) + " frames; " +
                b["device"].rsplit(", ", 1)[0] +
                f"; causvid {b['version']}, {b['commit']}", 12,
                colour="#555555")]
    out += draw_lines(series, look) + draw_bars(series, look, top)
    return "\n".join(out + ["</svg>"]) + "\n"


def write(path, lines):
    svg = draw(lines)
    if svg:
        with open(path, "w", encoding="utf-8") as f:
            f.write(svg)
    return svg is not None


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: chart.py RESULTS.jsonl CHART.svg")
    with open(sys.argv[1], encoding="utf-8") as results:
        if not write(sys.argv[2], [json.loads(row) for row in results]):
            sys.exit("chart.py: there are no results in it")
