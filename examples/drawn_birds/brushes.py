"""Brushes of the drawn birds: colours, smooth curves, feathers, soft gradients."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, ...]
Points = NDArray[np.float64]
Ends = tuple[Points, Points]  # root and tip of a feather
Band = tuple[float, float, Colour]  # across a feather, from and to: 0 root, 1 tip


def at(x: float, y: float) -> Points:
    return np.array((x, y), dtype=np.float64)


def colour_of(channels: Iterable[float]) -> Colour:
    """Round red, green and blue to whole numbers from 0 to 255."""
    return tuple(min(255, max(0, round(channel))) for channel in channels)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours, `share` of the second; a share outside 0..1 goes beyond them."""
    return colour_of(a + (b - a) * share for a, b in zip(first, second, strict=True))


def darker(colour: Colour, factor: float) -> Colour:
    """Multiply a colour by a factor: below 1 darker, above 1 brighter."""
    return mix((0, 0, 0), colour, factor)


def smooth(knots: ArrayLike, *, closed: bool = True) -> Points:
    """Return the points of a Catmull-Rom curve through the knots, shape (points, 2)."""
    points = np.asarray(knots, dtype=np.float64)
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate((before, points, after))
    t = np.linspace(0, 1, 6, endpoint=False)[:, None]  # at 60 pixels a unit no corner is seen
    weights = 0.5 * np.hstack(
        (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    )
    windows = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)
    curve = (weights[None] @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate((curve, points[-1:]))


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def gradient(size: tuple[int, int], stops: Sequence[tuple[float, Colour]]) -> Image.Image:
    """Return a picture whose colour runs from the top (0) to the bottom (1) through the stops."""
    rows = np.linspace(0, 1, size[1])
    places, colours = zip(*stops, strict=True)
    column = np.stack([np.interp(rows, places, c) for c in zip(*colours, strict=True)], axis=1)
    return Image.fromarray(column[:, None].round().astype(np.uint8)).resize(size)


def oval(x: float, y: float, across: float, up: float | None = None) -> tuple[float, ...]:
    """Return the box of an ellipse around (x, y), or of a circle where one radius is given."""
    up = across if up is None else up
    return x - across, y - up, x + across, y + up


class Frame(NamedTuple):
    """Where a bird's own coordinates (x forward, y down, in body half-lengths) lie in pixels."""

    x: float
    y: float
    scale: float
    mirror: int

    def pixels(self, points: ArrayLike) -> Points:
        stretch = at(self.scale * self.mirror, self.scale)
        return np.asarray(points, dtype=np.float64) * stretch + at(self.x, self.y)

    def cropped(self, left: float, top: float, zoom: float = 1.0) -> "Frame":
        """Return the frame of a crop that begins at (left, top), magnified `zoom` times."""
        return Frame((self.x - left) * zoom, (self.y - top) * zoom, self.scale * zoom, self.mirror)


class Brush:
    """Paints in a frame's coordinates; a mask, if any, gets white wherever something is painted."""

    def __init__(self, image: Image.Image, frame: Frame, mask: Image.Image | None = None) -> None:
        self.frame = frame
        self._draws = [ImageDraw.Draw(each) for each in (image, mask) if each is not None]

    def _paint(self, shape: str, place: Any, colour: Colour | int, **options: Any) -> None:
        for draw, ink in zip(self._draws, (colour, 255), strict=False):
            getattr(draw, shape)(place, fill=ink, **options)

    def fill(self, points: ArrayLike, colour: Colour | int) -> None:
        self._paint("polygon", self.frame.pixels(points).ravel().tolist(), colour)

    def stroke(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draw an open line of a width given in bird units, at least one pixel."""
        flat = self.frame.pixels(points).ravel().tolist()
        pixels = max(1, round(width * self.frame.scale))
        self._paint("line", flat, colour, width=pixels, joint="curve")

    def dot(self, centre: ArrayLike, radius: float, colour: Colour | int, flat: float = 1) -> None:
        """Fill a circle, or with `flat` below 1 an ellipse that is wider than high."""
        x, y = self.frame.pixels(centre).tolist()
        across, up = radius * self.frame.scale, radius * flat * self.frame.scale
        self._paint("ellipse", oval(x, y, across, up), colour)

    def feather(
        self, ends: Ends, width: float, colour: Colour, edge: Colour, band: Band | None = None
    ) -> None:
        """Draw one feather with a pale edge and, perhaps, a band across it."""
        blade = _feather_blade(ends, width)
        self.fill(blade, colour)
        if band is not None:
            self.fill(_feather_blade(ends, width, *band[:2]), band[2])
        self.stroke(blade[len(blade) // 2 :], edge, 0.018)
        self.stroke(ends, mix(colour, (0, 0, 0), 0.22), 0.012)
        if band is not None:
            self.fill(_feather_blade(ends, width * 0.86, *band[:2]), band[2])


def _feather_blade(ends: Ends, width: float, first: float = 0, last: float = 1) -> Points:
    """Return the outline of a feather, or of its stretch from `first` to `last`."""
    along = np.linspace(first, last, 9)
    half = width / 2 * np.interp(along, (0, 0.35, 0.7, 0.9, 1), (0.55, 1, 0.96, 0.62, 0.06))
    axis = ends[1] - ends[0]
    across = np.array((-axis[1], axis[0])) / max(float(np.hypot(*axis)), 1e-9)
    spine = ends[0] + along[:, None] * axis
    return np.concatenate((spine + half[:, None] * across, (spine - half[:, None] * across)[::-1]))
