"""Checks of the features that a head takes, one sentence each."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_features(
    features: Any,
    input_size: int,
    axes: Mapping[int, int],
    *,
    name: str = "features",
    shapes: str,
) -> None:
    """Refuse what a head cannot take.

    Args:
        features: of the caller.
        input_size: c, channels that the head takes.
        axes: for each number of axes that fits, which of them holds the channels.
        name: of the argument.
        shapes: that fit, in words.

    Raises:
        ValueError: if the shape is another, or an axis but the first is empty.
        TypeError: if it is no tensor, or not floating point.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"Expected `{name}` to be a tensor, but got {type(features).__name__}.")
    shape = tuple(features.shape)
    batched = axes.get(features.ndim + 1)  # where the channels would be, with an axis more
    lacks_batch = batched is not None and shape[batched - 1] == input_size
    if features.ndim not in axes:
        hint = f" Add a batch axis: {name}[None]." if lacks_batch else ""
        raise ValueError(f"Expected `{name}` to have shape {shapes}, but got {shape}.{hint}")
    channels = shape[axes[features.ndim]]
    if channels != input_size:
        hint = f"Build the module with input_size={channels}."
        if lacks_batch:
            hint = f"Add a batch axis: {name}[None]."
        raise ValueError(
            f"Expected `{name}` to have {input_size} channels, but got {channels} in shape "
            f"{shape}. {hint}"
        )
    if 0 in shape[1:]:
        raise ValueError(f"Expected `{name}` to hold at least one position, but got shape {shape}.")
    if not features.is_floating_point():
        raise TypeError(
            f"Expected `{name}` to be floating point, but got {features.dtype}. "
            f"Convert them: {name}.float()."
        )
