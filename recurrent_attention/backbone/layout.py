"""Where a timm model keeps its feature map, and what its own head does to it first."""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Literal, NamedTuple

from einops import rearrange
from torch import Tensor, nn

from recurrent_attention.backbone.probe import Call, nodes_behind, reached_parameters, trace

CHANNELS_FIRST = "b c h w -> b c h w"
CHANNELS_LAST = "b h w c -> b c h w"
TOKENS = "b (h w) c -> b c h w"
TOKENS_LAST = "b c (h w) -> b c h w"
LAST_INTERMEDIATE = {"indices": 1, "norm": True, "intermediates_only": True}


class Layout(NamedTuple):
    """How a model returns its map.

    Attributes:
        source: what `forward_features` returns, or the last map of `forward_intermediates`.
        pattern: the einops pattern that brings it to (b c h w).
        channels: c of the map.
        grid: (h, w) of the map.
    """

    source: Literal["features", "intermediates"]
    pattern: str
    channels: int
    grid: tuple[int, int]


def find_layout(model: Any, features: Any, images: Tensor) -> Layout | None:
    """Recognise the map in what `forward_features` returned; None if it cannot be recognised."""
    shape = tuple(_last(features).shape)
    if len(shape) == 4:
        if getattr(model, "output_fmt", None) == "NHWC":
            return Layout("features", CHANNELS_LAST, shape[3], (shape[1], shape[2]))
        return Layout("features", CHANNELS_FIRST, shape[1], (shape[2], shape[3]))
    if len(shape) != 3:
        return None
    try:
        intermediates, _ = trace(
            model,
            lambda: model.forward_intermediates(images, indices=1, intermediates_only=True),
        )
    except RuntimeError as error:
        if "meta" not in str(error):
            return None
        # The method reads numbers out of tensors, and there are none: trust in a square map.
        side = isqrt(shape[1] - getattr(model, "num_prefix_tokens", 0))
        return Layout("features", TOKENS, shape[2], (side, side))
    _, channels, height, width = intermediates[-1].shape
    grid = (height, width)
    if shape[1:] == (channels, height * width):
        return Layout("features", TOKENS_LAST, channels, grid)
    if shape[2] != channels:
        return _projected_tokens(shape[1] - getattr(model, "num_prefix_tokens", 0), shape[2], grid)
    if shape[1] != height * width and _ends_with_class_tokens(model, features, images):
        return Layout("intermediates", CHANNELS_FIRST, channels, grid)
    return Layout("features", TOKENS, channels, grid)


def _projected_tokens(tokens: int, channels: int, grid: tuple[int, int]) -> Layout | None:
    """Recognise tokens that were projected in the end, or merged with their neighbours.

    Args:
        tokens: how many come back, without the prefix.
        channels: of each.
        grid: (h, w) of the tokens before, of which f x f became one.
    """
    height, width = grid
    if not 0 < tokens <= height * width:
        return None
    factor = isqrt(height * width // tokens)
    if height % factor or width % factor or tokens * factor**2 != height * width:
        return None
    return Layout("features", TOKENS, channels, (height // factor, width // factor))


def _ends_with_class_tokens(model: Any, features: Any, images: Tensor) -> bool:
    """Return whether the last layers change the class tokens only, and leave the map as it is."""
    intermediates, _ = trace(
        model, lambda: model.forward_intermediates(images, **LAST_INTERMEDIATE)
    )
    layers, layers_of_map = (
        reached_parameters(model, nodes_behind(_last(output)))
        for output in (features, intermediates)
    )
    return layers_of_map < layers or _last(features).shape[1] < _last(intermediates)[0, 0].numel()


def to_map(features: Any, layout: Layout, sides: Sequence[int], built_for: int) -> Tensor:
    """Bring what a model returned for images of some sides to (b c h w).

    Args:
        features: as `layout` says.
        layout: as it is at the side for which the model was built.
        sides: height and width of the images.
        built_for: that side.
    """
    tensor = _last(features)
    if tensor.ndim == 4:
        return rearrange(tensor, layout.pattern)
    tokens = tensor.shape[1 if layout.pattern == TOKENS else 2]
    height, width = _grid_of(tokens, layout.grid, sides, built_for)
    if layout.pattern == TOKENS:
        tensor = tensor[:, -height * width :]  # the class token and its like come first
    return rearrange(tensor, layout.pattern, h=height, w=width)


def _grid_of(
    tokens: int, grid: tuple[int, int], sides: Sequence[int], built_for: int
) -> tuple[int, int]:
    """Return (h, w) of the tokens. Cells are rounded up: a model may pad what is no multiple."""
    height, width = (-(-side * n // built_for) for side, n in zip(sides, grid, strict=True))
    if not any(built_for % n for n in grid) or height * width <= tokens:
        return height, width
    # Padded at that side, too, so a cell may be wider than the side over the cells: try widths.
    for cell in range(built_for // max(grid) + 1, built_for):
        height, width = (-(-side // cell) for side in sides)
        if height * width <= tokens:
            break
    return height, width


def head_norm(model: Any, features: Any, layout: Layout) -> tuple[str, bool]:
    """Name the norm with which the model's own head begins, and say what that norm takes.

    A norm is a layer that has an `eps`, keeps the shape, and has at most one number per channel in
    each parameter. It counts if no other layer with parameters comes before it.

    Returns:
        The name, "" if the head begins otherwise, and whether the norm takes maps (b c h w); else
        it takes vectors (b c).
    """
    if layout.source == "intermediates":
        return "", False
    try:
        _, calls = trace(model, lambda: model.forward_head(features, pre_logits=True))
    except (AttributeError, NotImplementedError, TypeError):  # an encoder without a classifier
        return "", False
    for call in calls:
        layer = model.get_submodule(call.name)
        shapes = {tuple(parameter.shape) for parameter in layer.parameters()}
        if (
            hasattr(layer, "eps")
            and call.input_shape == call.output_shape
            and shapes <= {(layout.channels,)}
        ):
            takes_maps = len(call.input_shape) == 4 and call.input_shape[1] == layout.channels
            return call.name, takes_maps
        if shapes:
            break
    return "", False


def closing_pools(model: nn.Module, calls: list[Call]) -> list[str]:
    """Name the layers at the end of the features that only make the map smaller."""
    names = []
    for call in reversed(calls):
        layer = model.get_submodule(call.name)
        if any(layer.children()) or isinstance(layer, nn.Identity):
            continue
        if any(True for _ in layer.parameters()) or not _shrinks(call):
            break
        names.append(call.name)
    return names


def _shrinks(call: Call) -> bool:
    return (
        len(call.input_shape) == len(call.output_shape) == 4
        and call.input_shape[1] == call.output_shape[1]
        and call.input_shape[2] > call.output_shape[2]
    )


def _last(features: Any) -> Tensor:
    """Of several maps take the last: the coarsest, after the most layers."""
    last: Tensor = features[-1] if isinstance(features, (list, tuple)) else features
    return last
