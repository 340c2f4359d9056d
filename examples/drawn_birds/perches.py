"""Perches of the drawn birds: branch, reed, stone and fence post."""

import math
import random
from typing import NamedTuple

import numpy as np

from drawn_birds.brushes import Brush, Colour, Points, at, darker, mix, smooth

_LEAVES: tuple[Colour, ...] = (
    (98, 132, 68), (130, 150, 80), (72, 110, 74), (150, 158, 94), (88, 122, 98), (158, 142, 80),
    (182, 150, 94),
)  # fmt: skip


class Perch(NamedTuple):
    """What the bird stands on: its kind, the slope of its top, its thickness in bird units."""

    kind: str
    slope: float
    thickness: float

    def lift(self, foot: Points) -> Points:
        """Return the foot moved onto the sloping top."""
        return foot + at(0.0, self.slope * float(foot[0]))


def random_perch(rng: random.Random) -> Perch:
    """Draw a branch (most often), a reed, a stone or a fence post."""
    kind = rng.choice(("branch", "branch", "branch", "reed", "stone", "post"))
    thin, thick = rng.uniform(0.08, 0.11), rng.uniform(0.16, 0.3)
    slope = rng.uniform(-0.3, 0.3)
    if kind == "reed":
        return Perch(kind, 1.4 * slope, thin)
    return Perch(kind, slope, thick) if kind == "branch" else Perch(kind, 0.0, 0.7)


def paint_perch(brush: Brush, perch: Perch, foot: Points, rng: random.Random) -> None:
    """Paint the perch under a foot that stands on its top, out to the picture's borders."""
    if perch.kind in ("branch", "reed"):
        _branch(brush, perch, foot, rng)
    elif perch.kind == "stone":
        _stone(brush, foot, rng)
    else:
        _post(brush, foot, rng)


def _branch(brush: Brush, perch: Perch, foot: Points, rng: random.Random) -> None:
    reed = perch.kind == "reed"
    bark = rng.choice(((104, 86, 70), (122, 108, 94), (92, 82, 78), (132, 104, 78)))
    bark = mix(bark, (136, 142, 84), 0.75) if reed else bark
    x = np.linspace(-9, 9, 25)
    bow, phase = rng.uniform(-0.012, 0.03), rng.uniform(0, 6.3)
    taper = rng.choice((-1, 1)) * rng.uniform(0.02, 0.07)
    top = foot[1] + perch.slope * x + bow * x**2 + 0.02 * np.sin(2.1 * x + phase) * abs(x)
    thick = perch.thickness * np.clip(1 + taper * x, 0.35, 1.7)
    upper = smooth(np.stack((x, top), axis=1), closed=False)
    depth = np.stack((np.zeros_like(thick), thick), axis=1)
    under = smooth(np.stack((x, top), axis=1) + depth, closed=False)
    if reed:
        _reeds(brush, float(foot[1]), bark, rng)
    _leaves(brush, upper, rng, reed=reed)
    brush.fill(np.concatenate((upper, under[::-1])), bark)
    lower = upper + (under - upper) * 0.62
    brush.fill(np.concatenate((lower, under[::-1])), mix(darker(bark, 0.66), (60, 58, 84), 0.15))
    middle = upper + (under - upper) * 0.18
    brush.fill(np.concatenate((upper, middle[::-1])), mix(bark, (244, 232, 206), 0.34))
    for _ in range(0 if reed else 46):
        i, level = rng.randrange(len(upper) - 6), rng.uniform(0.15, 0.9)
        line = (upper + (under - upper) * level)[i : i + rng.randint(3, 6)]
        tone = darker(bark, 0.7) if rng.random() < 0.6 else mix(bark, (236, 224, 200), 0.25)
        brush.stroke(line, tone, 0.018)
    if rng.random() < 0.3 and not reed:
        _blossoms(brush, upper, rng)


def _reeds(brush: Brush, level: float, green: Colour, rng: random.Random) -> None:
    """Paint a few upright reeds with brown heads behind the one that carries the bird."""
    for _ in range(rng.randint(3, 6)):
        x, lean = rng.uniform(-3, 3), rng.uniform(-0.5, 0.5)
        top = level - rng.uniform(0.6, 2.6)
        tone = mix(_vary(green, rng), (150, 160, 150), rng.uniform(0.1, 0.5))
        stem = smooth([(x, level + 7), (x, level + 1), (x + lean, top)], closed=False)
        brush.stroke(stem, tone, 0.045)
        along = (stem[-1] - stem[-6]) / float(np.hypot(*(stem[-1] - stem[-6])))
        brush.stroke(
            np.stack((stem[-1] - 0.1 * along, stem[-1] + 0.36 * along)), (112, 84, 62), 0.11
        )
        brush.stroke(np.stack((stem[-1], stem[-1] + 0.3 * along)), (136, 104, 76), 0.035)
        brush.stroke(np.stack((stem[-1], stem[-1] + 0.5 * along)), tone, 0.02)


def _blossoms(brush: Brush, path: Points, rng: random.Random) -> None:
    """Paint pale five-petalled blossoms along a branch."""
    petal = mix((246, 238, 234), (232, 206, 210), rng.random())
    for _ in range(rng.randint(6, 12)):
        centre = path[rng.randrange(len(path))] + at(
            rng.uniform(-0.1, 0.1), rng.uniform(-0.12, 0.1)
        )
        size, turn = rng.uniform(0.05, 0.085), rng.uniform(0, 6.3)
        for step in range(5):
            angle = turn + 1.257 * step
            tone = darker(petal, 1.0 if math.sin(angle) < 0 else 0.9)
            brush.dot(centre + size * at(math.cos(angle), math.sin(angle)), 0.8 * size, tone)
        brush.dot(centre, 0.45 * size, (196, 164, 112))


def _leaves(brush: Brush, path: Points, rng: random.Random, *, reed: bool) -> None:
    green = mix(rng.choice(_LEAVES), rng.choice(_LEAVES), rng.random())
    count, long = rng.randint(7, 14), rng.uniform(0.4, 0.62)
    for _ in range(count):
        start = path[rng.randrange(len(path))] + at(0, 0.03)
        angle = rng.uniform(-2.7, -0.4) if rng.random() < 0.6 else rng.uniform(0.4, 2.7)
        length = long * rng.uniform(0.7, 1.2) * (2.2 if reed else 1)
        width = 0.05 if reed else rng.uniform(0.09, 0.13)
        _leaf(brush, start, angle, length, width, _vary(green, rng))


def _vary(colour: Colour, rng: random.Random) -> Colour:
    return darker(mix(colour, (214, 206, 130), rng.uniform(0, 0.3)), rng.uniform(0.75, 1.15))


def _leaf(
    brush: Brush, start: Points, angle: float, length: float, width: float, colour: Colour
) -> None:
    """Paint a leaf with a stalk, a lit and a shaded half and a midrib."""
    ahead = at(math.cos(angle), math.sin(angle))
    across = at(-ahead[1], ahead[0])
    t = np.linspace(0, 1, 10)
    spine = start + ahead * 0.12 + t[:, None] * length * ahead
    spine = spine + (0.12 * length * t**2)[:, None] * at(0, 1)
    half = (width * np.sin(np.pi * t**0.8))[:, None] * across
    sunny, shady = (1, -1) if across[1] < 0 else (-1, 1)
    brush.stroke(np.stack((start, spine[0])), darker(colour, 0.7), 0.03)
    for side, tone in ((shady, darker(colour, 0.74)), (sunny, mix(colour, (240, 240, 190), 0.16))):
        brush.fill(np.concatenate((spine, (spine + side * half)[::-1])), tone)
    brush.stroke(spine, mix(colour, (240, 240, 200), 0.4), 0.012)


def _stone(brush: Brush, foot: Points, rng: random.Random) -> None:
    """Paint a mossy boulder with a smaller one beside it."""
    grey = mix((120, 118, 118), (152, 138, 122), rng.random())
    side, top = rng.choice((-1, 1)), float(foot[1]) - 0.03
    beside = at(side * rng.uniform(1.0, 1.7), top + rng.uniform(0.35, 0.7))
    _boulder(brush, beside, at(rng.uniform(0.6, 0.9), 0.7), darker(grey, 0.86), rng)
    place, size = at(rng.uniform(-0.3, 0.4), top), at(rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.3))
    _boulder(brush, place, size, grey, rng)


def _boulder(brush: Brush, top: Points, size: Points, grey: Colour, rng: random.Random) -> None:
    """Paint one boulder, lit along its upper edge, from its top down out of the picture."""
    knots = [(-1.9, 9), (-1.6, 5), (-1.42, 3), (-1.28, 1.7), (-1.08, 0.8), (-0.72, 0.22),
             (-0.25, 0), (0.3, 0), (0.78, 0.26), (1.06, 0.85), (1.28, 1.7), (1.42, 3), (1.6, 5),
             (1.9, 9)]  # fmt: skip
    bumpy = [(x * rng.uniform(0.92, 1.08), y * rng.uniform(0.8, 1.2)) for x, y in knots]
    rim = top + smooth(bumpy, closed=False) * size
    lit, shady = mix(grey, (250, 242, 224), 0.38), mix(darker(grey, 0.56), (62, 66, 92), 0.2)
    for step in range(16):
        brush.fill(rim + at(0, 0.05 * step + 0.004 * step**2), mix(lit, shady, (step / 15) ** 0.7))
    moss = mix((112, 128, 72), (146, 148, 96), rng.random())
    for _ in range(40):
        x = float(top[0]) + rng.uniform(-1.05, 1.05) * float(size[0])
        depth = rng.triangular(0.0, 1.2, 0.05)
        place = at(x, float(np.interp(x, rim[:, 0], rim[:, 1])) + 0.03 + depth)
        tone = rng.choice((darker(grey, 0.72), mix(grey, (240, 234, 214), 0.35), moss, moss))
        tone = mix(tone, shady, min(0.85, depth))
        brush.dot(place, rng.uniform(0.012, 0.055), tone, 0.55)
    for _ in range(rng.randint(1, 3)):
        x = float(top[0]) + rng.uniform(-0.7, 0.7) * float(size[0])
        crack = [(x, float(np.interp(x, rim[:, 0], rim[:, 1])) + 0.12)]
        for _ in range(4):
            crack.append((crack[-1][0] + rng.uniform(-0.12, 0.12), crack[-1][1] + 0.14))
        brush.stroke(crack, mix(shady, (30, 30, 40), 0.3), 0.016)


def _post(brush: Brush, foot: Points, rng: random.Random) -> None:
    wood = mix((140, 124, 106), (118, 112, 108), rng.random())
    half, centre = rng.uniform(0.36, 0.5), 0.08
    left, right, top = centre - half, centre + half, float(foot[1]) - 0.02
    brush.fill([(left, top), (right, top), (right + 0.03, 9), (left - 0.03, 9)], wood)
    for share in range(5):
        x = right - half * (0.75 - 0.15 * share)
        tone = darker(wood, 0.94 - 0.07 * share)
        brush.fill([(x, top), (right, top), (right + 0.03, 9), (x, 9)], tone)
    brush.dot((centre, top + 0.03), half, mix(wood, (246, 236, 214), 0.4), 0.2)
    for _ in range(16):
        x, y = rng.uniform(left + 0.04, right - 0.04), top + rng.uniform(0.12, 2.5)
        long, bend = rng.uniform(0.2, 1.2), rng.uniform(-0.02, 0.02)
        brush.stroke([(x, y), (x + bend, y + long)], darker(wood, rng.uniform(0.55, 0.85)), 0.016)
