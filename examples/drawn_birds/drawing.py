"""Draws one bird on its perch, whose class is told by one small mark only.

No brush stroke of a mark draws a random number, and nothing random depends on the mark: with the
same random stream another mark gives the same picture, but for the few pixels of the mark.
"""

import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from drawn_birds.anatomy import Bird, random_bird
from drawn_birds.brushes import Brush, Colour, Frame, Points, at, darker, smooth
from drawn_birds.perches import Perch, paint_perch, random_perch
from drawn_birds.plumage import (
    paint_bill,
    paint_crown,
    paint_eye,
    paint_eye_ring,
    paint_plumes,
    paint_tail,
    paint_wing,
    shading,
    soft_plumage,
)
from drawn_birds.scenery import Light, finish, paint_background, paint_berries, random_light

# Pixels drawn for each pixel kept, along each side: at 2 edges are smooth, at 3 it is slow.
_OVERSAMPLING = 2
# Longer side in pixels at which the plumage's soft colours and its shading are painted.
_SOFT_SIDE = 72
# Least share of the free height left above a bird; on a stone more, for a stone lies low.
_HIGHEST = (0.04, 0.55)


class Mark(NamedTuple):
    """The one small part that tells a class, and its colour."""

    part: str
    colour_name: str
    rgb: Colour


_RED, _YELLOW = (222, 48, 28), (252, 204, 28)

MARKS: tuple[Mark, ...] = tuple(
    Mark(part, name, rgb)
    for name, rgb in (("red", _RED), ("yellow", _YELLOW))
    for part in ("bill", "eye_ring", "wing_bar", "crown", "tail_band")
)
"""One mark for each class; no part and no colour alone tells the class.

Both colours are far from those of plumage, perch and background: what tells two classes apart is
first the colour, which a network finds soon, then where it is, which takes resolution.
"""


class Drawing(NamedTuple):
    """A drawn bird."""

    image: Image.Image
    bounding_box: tuple[float, float, float, float]
    parts: dict[str, tuple[float, float]]


def draw_bird(mark: Mark, *, size: tuple[int, int], rng: random.Random) -> Drawing:
    """Draw a bird that carries the mark."""
    bird, light, perch = random_bird(rng), random_light(rng), random_perch(rng)
    large = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    frame = _place(bird, large, _HIGHEST[perch.kind == "stone"], rng)
    strokes = np.random.default_rng(rng.getrandbits(32)).random((72, 4))
    canvas = paint_background(large, light, rng)
    paint_berries(canvas, rng)
    brush = Brush(canvas, frame)
    paint_perch(brush, perch, at(0.0, float(bird.feet[0][1])), rng)
    _paint_legs(brush, bird, perch)
    _paint_bird(canvas, frame, bird, light, mark, strokes)
    image = finish(canvas.resize(size, Image.Resampling.LANCZOS), light, rng)

    def kept(points: Points) -> Points:
        return frame.pixels(points) / _OVERSAMPLING

    corners = kept(np.stack(bird.extent))
    x0, y0 = corners.min(axis=0).clip(0).tolist()
    x1, y1 = np.minimum(corners.max(axis=0), size).tolist()
    places = {name: kept(place) for name, place in bird.parts(frame.mirror == 1).items()}
    parts = {name: (float(place[0]), float(place[1])) for name, place in places.items()}
    return Drawing(image, (x0, y0, x1, y1), parts)


def _place(bird: Bird, size: tuple[int, int], highest: float, rng: random.Random) -> Frame:
    """Choose the bird's size, place and direction so that the whole of it is in the picture."""
    least, most = bird.extent
    width, height = (most - least).tolist()
    share, mirror = rng.uniform(0.3, 0.53), rng.choice((-1, 1))
    scale = min(
        share * max(size) / max(width, height), 0.9 * size[0] / width, 0.84 * size[1] / height
    )
    across, down = rng.uniform(0.04, 0.96), rng.uniform(highest, 0.9)
    left = across * (size[0] - scale * width)
    top = down * (size[1] - scale * height)
    x = left - scale * (float(least[0]) if mirror == 1 else -float(most[0]))
    return Frame(x, top - scale * float(least[1]), scale, mirror)


def _paint_legs(brush: Brush, bird: Bird, perch: Perch) -> None:
    for hip, foot, tone in zip(bird.hips, bird.feet, (0.7, 1.0), strict=True):
        colour, stand = darker(bird.colours.legs, tone), perch.lift(foot)
        knee = hip * 0.45 + stand * 0.55 + at(-0.06, 0)
        brush.stroke(smooth([hip, knee, stand], closed=False), colour, 0.055)
        for reach, drop in ((0.2, 0.05), (0.15, 0.09), (0.06, 0.1), (-0.13, 0.06)):
            ahead = perch.slope * reach
            toe = [
                stand,
                stand + at(0.6 * reach, 0.6 * ahead - 0.02),
                stand + at(reach, ahead + drop),
            ]
            brush.stroke(smooth(toe, closed=False), colour, 0.042)
            brush.dot(toe[-1], 0.022, darker(colour, 0.7))


def _paint_bird(
    canvas: Image.Image, frame: Frame, bird: Bird, light: Light, mark: Mark, strokes: Points
) -> None:
    """Paint tail, body, wing and head on a layer, light the layer, and lay it on the canvas."""

    def worn(part: str) -> Colour | None:
        return mark.rgb if mark.part == part else None

    corners = frame.pixels(np.stack(bird.extent))
    left, top = (int(v) - 3 for v in corners.min(axis=0))
    right, low = (int(v) + 4 for v in corners.max(axis=0))
    size = (right - left, low - top)
    here = frame.cropped(left, top)
    zoom = _SOFT_SIDE / max(size)
    layer, mask = Image.new("RGB", size), Image.new("L", size)
    brush = Brush(layer, here, mask)
    small = frame.cropped(left, top, zoom)
    small_size = (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom)))
    paint_tail(brush, bird, worn("tail_band"))
    body = Image.new("L", size)
    Brush(body, here).fill(bird.outline, 255)
    layer.paste(soft_plumage(bird, small, small_size).resize(size, Image.Resampling.BILINEAR), body)
    mask.paste(255, body)
    paint_plumes(Brush(layer, here), bird, strokes)
    paint_wing(brush, bird, worn("wing_bar"))
    light_map = shading(bird, light, small, small_size).resize(size, Image.Resampling.BILINEAR)
    layer = ImageChops.hard_light(layer, light_map)
    brush = Brush(layer, here, mask)
    paint_crown(brush, bird, worn("crown"))
    paint_eye_ring(brush, bird, worn("eye_ring"))
    paint_bill(brush, bird, worn("bill"))
    paint_eye(brush, bird, light)
    canvas.paste(layer, (left, top), mask)
