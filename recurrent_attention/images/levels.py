"""Gray levels of more than 8 bits: which is black and which is white, and 8 bits of them."""

import math
import warnings

import numpy as np
from PIL import Image

_WHITE_16 = 65535
_DARK_16 = 4096  # levels of a camera with 12 bits: kept in 16 bits unscaled, they look black
_BITS, _MIN, _MAX, _SMIN, _SMAX = 258, 280, 281, 340, 341  # tags of TIFF
_LOADER = "Pass a `loader` that scales it: Pictures(..., loader=...), or an array."


class RangeWarning(UserWarning):
    """A picture of 16 bits uses so few of its levels that it is read almost black."""


def levels_of(picture: Image.Image) -> tuple[float, float]:
    """Return the levels of black and white of a picture of mode I or F.

    Raises:
        ValueError: if nothing says which they are.
    """
    declared = _declared_range(picture)
    if picture.mode.startswith("I;16"):
        if declared is not None:
            return declared
        largest = int(np.asarray(picture.convert("I")).max())
        if 0 < largest < _DARK_16:
            warnings.warn(
                f"A picture of 16 bits has no level above {largest} of {_WHITE_16} and declares no "
                f"smaller range, so it is read almost black. {_LOADER} `check_pictures` lists "
                f"such files.",
                RangeWarning,
                stacklevel=2,
            )
        return 0.0, float(_WHITE_16)
    if picture.format == "PPM" and picture.mode == "I":  # Pillow scales it by the file's own range
        return 0.0, float(_WHITE_16)
    if declared is None:
        kind = "floating-point numbers" if picture.mode == "F" else "numbers of 32 bits"
        raise ValueError(f"{kind} that declare no range. {_LOADER}")
    return declared


def _declared_range(picture: Image.Image) -> tuple[float, float] | None:
    """Return the smallest and largest level that a TIFF file declares; None if it declares none."""
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return None

    def number(tag: int) -> float | None:
        value = tags.get(tag)
        value = value[0] if isinstance(value, tuple) and value else value
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    low, high = number(_SMIN), number(_SMAX)
    if high is None:
        # These two are often the levels that occur; of whole numbers only a depth counts.
        low, high = number(_MIN), number(_MAX)
        if high is not None and picture.mode != "F" and not _is_depth(high):
            high = None
    if high is None and picture.mode.startswith("I;16"):
        bits = number(_BITS)
        low, high = 0.0, 2.0**bits - 1 if bits is not None and 8 < bits < 16 else None
    low = 0.0 if low is None else low
    return (low, high) if high is not None and low < high else None


def _is_depth(largest: float) -> bool:
    """Return whether a level is the largest of so many bits: 255, 1023, 4095, 65535."""
    return largest >= 1 and largest.is_integer() and (int(largest) & (int(largest) + 1)) == 0


def eight_bits(picture: Image.Image, black: float, white: float) -> Image.Image:
    """Scale levels to 8 bits, which Pillow itself would cut off at 255."""
    levels = np.asarray(picture if picture.mode == "F" else picture.convert("I"))
    if not np.isfinite(levels).all():
        raise ValueError(f"numbers that are NaN or infinite. {_LOADER}")
    clear = levels == picture.info.get("transparency", math.nan)
    scaled = np.rint((levels - black) * (255 / (white - black))).clip(0, 255)
    eight = Image.fromarray(np.where(clear, 255, scaled).astype(np.uint8))
    if clear.any():
        eight.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return eight
