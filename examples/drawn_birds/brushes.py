"""Brushes of the drawn birds: colours, smooth curves, feathers, soft gradients."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Points: TypeAlias = NDArray[np.float64]

# Points on a curve between two of its knots: at 60 pixels a unit no corner is seen.
_CURVE_STEPS = 6


def at(x: float, y: float) -> Points:
    """Return one point."""
    return np.array((x, y), dtype=np.float64)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours, `share` of the second; a share outside 0..1 goes beyond them."""
    red, green, blue = (
        min(255, max(0, round(a + (b - a) * share))) for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def darker(colour: Colour, factor: float) -> Colour:
    """Multiply a colour by a factor: below 1 darker, above 1 brighter."""
    return mix((0, 0, 0), colour, factor)


def smooth(knots: ArrayLike, *, closed: bool = True) -> Points:
    """Return the points of a Catmull-Rom curve through the knots, shape (points, 2)."""
    points = np.asarray(knots, dtype=np.float64)
    if closed:
        padded = np.concatenate((points[-1:], points, points[:2]))
    else:
        padded = np.concatenate((points[:1], points, points[-1:]))
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[:, None]
    weights = 0.5 * np.hstack(
        (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    )
    windows = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)
    curve: Points = (weights[None] @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate((curve, points[-1:]))


def gradient(size: tuple[int, int], stops: Sequence[tuple[float, Colour]]) -> Image.Image:
    """Return a picture whose colour runs from the top (0) to the bottom (1) through the stops."""
    width, height = size
    rows = np.linspace(0, 1, height)
    places = [place for place, _ in stops]
    column = np.stack(
        [np.interp(rows, places, [colour[c] for _, colour in stops]) for c in range(3)], axis=1
    )
    return Image.fromarray(column[:, None].round().astype(np.uint8)).resize((width, height))


class Frame(NamedTuple):
    """Where a bird's own coordinates (x forward, y down, in body half-lengths) lie in pixels."""

    x: float
    y: float
    scale: float
    mirror: int

    def pixels(self, points: ArrayLike) -> Points:
        """Return bird coordinates as pixels."""
        return np.asarray(points, dtype=np.float64) * at(self.scale * self.mirror, self.scale) + at(
            self.x, self.y
        )

    def cropped(self, left: float, top: float, zoom: float = 1.0) -> "Frame":
        """Return the frame of a crop that begins at (left, top), magnified `zoom` times."""
        return Frame((self.x - left) * zoom, (self.y - top) * zoom, self.scale * zoom, self.mirror)


class Brush:
    """Paints on one or more pictures of equal size in a frame's coordinates."""

    def __init__(self, image: Image.Image, frame: Frame, mask: Image.Image | None = None) -> None:
        self.frame = frame
        self._draw = ImageDraw.Draw(image)
        self._mask = None if mask is None else ImageDraw.Draw(mask)

    def fill(self, points: ArrayLike, colour: Colour | int) -> None:
        """Fill the polygon of the points."""
        flat = self.frame.pixels(points).ravel().tolist()
        self._draw.polygon(flat, fill=colour)
        if self._mask is not None:
            self._mask.polygon(flat, fill=255)

    def stroke(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draw an open line of a width given in bird units, at least one pixel."""
        flat = self.frame.pixels(points).ravel().tolist()
        pixels = max(1, round(width * self.frame.scale))
        self._draw.line(flat, fill=colour, width=pixels, joint="curve")
        if self._mask is not None:
            self._mask.line(flat, fill=255, width=pixels, joint="curve")

    def dot(self, centre: ArrayLike, radius: float, colour: Colour | int, flat: float = 1) -> None:
        """Fill a circle, or with `flat` below 1 an ellipse that is wider than high."""
        x, y = self.frame.pixels(centre).tolist()
        across, up = radius * self.frame.scale, radius * flat * self.frame.scale
        box = (x - across, y - up, x + across, y + up)
        self._draw.ellipse(box, fill=colour)
        if self._mask is not None:
            self._mask.ellipse(box, fill=255)

    def feather(
        self,
        root: Points,
        tip: Points,
        width: float,
        colour: Colour,
        edge: Colour,
        band: tuple[float, float, Colour] | None = None,
    ) -> None:
        """Draw one feather with a pale edge and, perhaps, a band across it."""
        blade = feather_blade(root, tip, width)
        self.fill(blade, colour)
        if band is not None:
            self.fill(feather_blade(root, tip, width, band[0], band[1]), band[2])
        self.stroke(blade[len(blade) // 2 :], edge, 0.018)
        self.stroke(np.stack((root, tip)), mix(colour, (0, 0, 0), 0.22), 0.012)
        if band is not None:
            self.fill(feather_blade(root, tip, width * 0.86, band[0], band[1]), band[2])


def feather_blade(
    root: Points, tip: Points, width: float, first: float = 0.0, last: float = 1.0
) -> Points:
    """Return the outline of a feather, or of its stretch from `first` to `last`."""
    along = np.linspace(first, last, 9)
    half = width / 2 * np.interp(along, (0, 0.35, 0.7, 0.9, 1), (0.55, 1, 0.96, 0.62, 0.06))
    axis = tip - root
    across = np.array((-axis[1], axis[0])) / max(float(np.hypot(*axis)), 1e-9)
    spine = root + along[:, None] * axis
    return np.concatenate((spine + half[:, None] * across, (spine - half[:, None] * across)[::-1]))
