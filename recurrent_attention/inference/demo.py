"""A page in the browser: drop a picture, see what the model says and where it looked."""

from typing import Any

from recurrent_attention.inference.checks import PICTURE_CHANNELS
from recurrent_attention.network import TwoStreamNetwork

TITLE = "What the model sees"


def build_demo(model: TwoStreamNetwork, *, title: str = TITLE) -> Any:
    """Build a page that explains what a model answers to a picture dropped on it.

    The page shows the names with their probabilities, what each stream would say alone, the picture
    with its boxes, and look by look what speaks for the predicted class or for another one. The
    model answers as in eval mode, one picture at a time, and stays as it is. The page loads nothing
    from other hosts and reports nothing to anybody. The command `demo` deletes dropped pictures
    when it ends; in Python they stay where Gradio keeps them (`GRADIO_TEMP_DIR`).

    Args:
        model: a `TwoStreamClassifier`, on any device.
        title: of the page.

    Returns:
        A `gradio.Blocks`; its `launch()` serves the page, with what arguments that has.

    Raises:
        TypeError: if `model` is no such model.
        ValueError: if it takes channels that no picture file is read with.
        ImportError: if gradio or matplotlib is not installed.

    Example:
        >>> from recurrent_attention import TwoStreamClassifier
        >>> model = TwoStreamClassifier("test_resnet", 3, image_size=64, patch_size=64)
        >>> page = build_demo(model, title="Birds")  # doctest: +SKIP
        >>> page.launch()  # doctest: +SKIP
    """
    if not isinstance(model, TwoStreamNetwork):
        raise TypeError(
            f"Expected `model` to be a TwoStreamClassifier, but got {type(model).__name__}."
        )
    in_chans = model.global_backbone.in_chans
    if in_chans not in PICTURE_CHANNELS:
        raise ValueError(
            f"Expected a model that takes pictures of 1, 3 or 4 channels, but got one with "
            f"in_chans={in_chans}, as which no picture file is read."
        )
    try:
        from recurrent_attention.inference.demo_page import DemoPage
    except ImportError as error:
        raise ImportError(
            f"Expected {error.name} for the demo, but it is not installed: pip install "
            "'recurrent-attention[demo]'."
        ) from error
    return DemoPage(model, title).blocks
