"""For which sizes of pictures a stream's backbone is built, where nobody asks for one."""

from collections.abc import Iterator
from typing import Any

from recurrent_attention._arguments import side
from recurrent_attention.backbone.creation import SizeError, native_size
from recurrent_attention.backbone.feature_backbone import FeatureBackbone

IMAGE_SIZE, PATCH_SIZE = 448, 224  # of the paper


def fitting_backbone(name: str, argument: str, size: int | None, **kwargs: Any) -> FeatureBackbone:
    """Build a backbone for a size of pictures; where none is given, for the first that it takes.

    Args:
        name: as for `FeatureBackbone`.
        argument: "image_size" or "patch_size": what to call the size in a message.
        size: side of the pictures in pixels, or None.
        **kwargs: of `FeatureBackbone`.

    Returns:
        The backbone; its `image_size` is the side.

    Raises:
        ValueError: if timm does not know the model, or no size fits it.
        TypeError: if an argument is of another type.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"Expected `backbone` to be the name of a timm model, but got {type(name).__name__}. "
            "FeatureBackbone and RecurrentRefinedAttention are parts for modules of your own."
        )
    if size is not None:
        size = side(size, argument)
        try:
            return FeatureBackbone(name, image_size=size, **kwargs)
        except SizeError as error:
            raise SizeError.of(name, size, error.reason, argument) from error
    refused: list[Exception] = []
    for candidate in usual_sizes(name, argument):
        try:
            return FeatureBackbone(name, image_size=candidate, **kwargs)
        except OSError:
            raise
        except (ValueError, RuntimeError) as error:  # timm raises whatever a size leads to
            refused.append(error)
    raise refused[-1]  # at its own size, where that could be tried


def usual_sizes(name: str, argument: str) -> Iterator[int]:
    """List the sides of pictures to try for a stream, where nobody asks for one.

    Args:
        name: as for `FeatureBackbone`.
        argument: "image_size": 448 as in the paper, twice the side that the model was made for, and
            that side. "patch_size": 224 as in the paper, and the side that it was made for.

    Raises:
        ValueError: if timm does not know the model.
    """
    native = native_size(name)
    sides = [IMAGE_SIZE if argument == "image_size" else PATCH_SIZE]
    if native is not None:
        sides += [2 * native, native] if argument == "image_size" else [native]
    yield from dict.fromkeys(sides)
