"""The picture of an explanation: one strip that is understood at a glance; needs matplotlib."""

from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from recurrent_attention.inference.gradients import StreamMaps
from recurrent_attention.inference.looks_strip import LooksStrip
from recurrent_attention.inference.steps_strip import StepsStrip


def draw_explanation(
    explanation: StreamMaps, index: int, image: Any = None, note: str = ""
) -> Figure:
    """Draw one image's explanation; see `Explanation.figure`.

    Args:
        explanation: of a batch.
        index: which image of it, in [0, b).
        image: a `PIL.Image` of the same scene to show instead, or None.
        note: to write in the upper right corner.

    Returns:
        A figure with an Agg canvas.

    Raises:
        TypeError: if `image` is no `PIL.Image`.
    """
    if image is not None and not isinstance(image, Image.Image):
        raise TypeError(f"Expected `image` to be a PIL.Image, but got {type(image).__name__}.")
    kind = StepsStrip if explanation.patch_weights is None else LooksStrip
    return kind(explanation, index, image).draw(note)
