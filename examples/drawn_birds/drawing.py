"""Draws one bird on its perch, whose class is told by one small mark only.

No brush stroke of a mark draws a random number, and nothing random depends on the mark: with the
same random stream another mark gives the same picture, but for the few pixels of the mark.
"""

from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from .bird import Bird, paint_bird
from .brushes import Brush, Colour, Frame, at, darker, smooth
from .scenery import Light, Perch, finish, paint_background, paint_berries

_OVERSAMPLING = 2  # pixels drawn for each pixel kept, along each side: at 3 it is slow


class Mark(NamedTuple):
    """The one small part that tells a class, and its colour."""

    part: str
    colour_name: str
    rgb: Colour


# One mark for each class; no part and no colour alone tells the class. Both colours are far from
# those of plumage, perch and background: what tells two classes apart is first the colour, which a
# network finds soon, then where it is, which takes resolution.
MARKS: tuple[Mark, ...] = tuple(
    Mark(part, name, rgb)
    for name, rgb in (("red", (222, 48, 28)), ("yellow", (252, 204, 28)))
    for part in ("bill", "eye_ring", "wing_bar", "crown", "tail_band")
)


class Drawing(NamedTuple):
    """A drawn bird; all places are in pixels of the picture."""

    image: Image.Image
    bounding_box: tuple[float, float, float, float]  # x0, y0, x1, y1 of the bird without its perch
    parts: dict[str, tuple[float, float]]  # x, y of what can be seen, by its name in CUB-200-2011


def draw_bird(mark: Mark, *, size: tuple[int, int], rng: Random) -> Drawing:
    """Draw a bird that carries the mark, in a picture of `size` (width, height) pixels."""
    bird, light, perch = Bird(rng), Light(rng), Perch(rng)
    large = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    frame = _place(bird, large, perch, rng)
    strokes = np.random.default_rng(rng.getrandbits(32)).random((72, 4))
    canvas = paint_background(large, light, rng)
    paint_berries(canvas, rng)
    brush = Brush(canvas, frame)
    perch.paint(brush, bird.ground, rng)
    _paint_legs(brush, bird, perch)
    paint_bird(canvas, frame, bird, light, {mark.part: mark.rgb}, strokes)
    image = finish(canvas.resize(size, Image.Resampling.LANCZOS), light, rng)
    corners = frame.pixels(np.stack(bird.extent)) / _OVERSAMPLING
    x0, y0 = corners.min(axis=0).clip(0).tolist()
    x1, y1 = np.minimum(corners.max(axis=0), size).tolist()
    places = bird.parts(faces_right=frame.mirror == 1)
    parts = {p: tuple((frame.pixels(xy) / _OVERSAMPLING).tolist()) for p, xy in places.items()}
    return Drawing(image, (x0, y0, x1, y1), parts)


def _place(bird: Bird, size: tuple[int, int], perch: Perch, rng: Random) -> Frame:
    """Choose the bird's size, place and direction so that the whole of it is in the picture."""
    least, most = bird.extent
    width, height = (most - least).tolist()
    share, mirror = rng.uniform(0.3, 0.53), rng.choice((-1, 1))
    room = min(0.9 * size[0] / width, 0.84 * size[1] / height)
    scale = min(share * max(size) / max(width, height), room)
    across = rng.uniform(0.04, 0.96)
    down = rng.uniform(0.55 if perch.kind == "stone" else 0.04, 0.9)  # a stone lies low
    left, top = across * (size[0] - scale * width), down * (size[1] - scale * height)
    x = left - scale * (float(least[0]) if mirror == 1 else -float(most[0]))
    return Frame(x, top - scale * float(least[1]), scale, mirror)


def _paint_legs(brush: Brush, bird: Bird, perch: Perch) -> None:
    for hip, foot, tone in zip(bird.hips, bird.feet, (0.7, 1.0), strict=True):
        colour, stand = darker(bird.colours.legs, tone), foot + at(0, perch.slope * foot[0])
        knee = hip * 0.45 + stand * 0.55 + at(-0.06, 0)
        brush.stroke(smooth([hip, knee, stand], closed=False), colour, 0.055)
        for reach, drop in ((0.2, 0.05), (0.15, 0.09), (0.06, 0.1), (-0.13, 0.06)):
            ahead = perch.slope * reach
            joint, claw = at(0.6 * reach, 0.6 * ahead - 0.02), at(reach, ahead + drop)
            toe = smooth([stand, stand + joint, stand + claw], closed=False)
            brush.stroke(toe, colour, 0.042)
            brush.dot(toe[-1], 0.022, darker(colour, 0.7))
