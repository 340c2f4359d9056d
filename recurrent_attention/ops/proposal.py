"""Where to look, without labels: what a map finds salient, and the boxes that hold most of it."""

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torchvision.ops import box_iou

from recurrent_attention.ops._shapes import check_shape
from recurrent_attention.ops.cell_offset import resample_cells

# Chosen by 5-fold cross-validation on the 1,500 training birds of benchmarks/boxes.py, see there.
WINDOW_SIDES = (0.3, 0.4, 0.5)  # shares of the picture's side; windows have every pair of them
WIDE_SIDES = (0.5, 0.6, 0.7)  # for patches that show the whole of a thing
AREA_EXPONENT = 0.35  # larger wants larger windows; 0.25 to 0.5 were tried
IOU_THRESHOLD = 0.4  # 0.5 keeps ten boxes closer to the bird, 0.3 covers more of its parts

EDITION = 1  # part of the keys of kept boxes: to be raised when the same map gives other boxes
GRID = 20  # windows move in steps of 5 % of the picture; with 40 steps the boxes are hardly better
RESOLUTION = 1e-5  # scores this close, as a share of the best, tie: float32 sums err by 1e-6


@torch.no_grad()
def saliency(cell_logits: Tensor) -> Tensor:
    r"""Measure how strongly each cell of the global map speaks for some classes over others.

    With l_k the logit of class k that the stream's classifier computes for a single cell, this is
    the standard deviation over the classes,

        saliency = sqrt(mean_k (l_k - mean_k l)^2)

    A softmax ignores what all classes share, and so does this. On birds it points to the head and
    away from the branches, and, unlike the class activation map of the predicted class, it does not
    depend on the prediction being right.

    Args:
        cell_logits: (b k h w) floating point, the classifier applied to every cell of the map. As
            it is linear, their mean over h w is the stream's logits, and nothing else has to run.

    Returns:
        (b h w), at least 0, without gradient, in float32 or the wider type of `cell_logits`. All 0
        with one class, which leaves nothing to tell apart.

    Raises:
        ValueError: if the shape is another, or there is no class or no cell.
        TypeError: if `cell_logits` is not floating point.

    Example:
        >>> cell_logits = torch.zeros(1, 3, 2, 2)
        >>> cell_logits[0, 1, 0, 1] = 3.0  # one cell speaks for class 1
        >>> saliency(cell_logits)[0]
        tensor([[0.0000, 1.4142],
                [0.0000, 0.0000]])
    """
    check_shape("cell_logits", cell_logits, "(b, k, h, w)")
    logits = cell_logits.to(torch.promote_types(cell_logits.dtype, torch.float32))
    spread = logits - reduce(logits, "b k h w -> b 1 h w", "mean")
    variance: Tensor = reduce(spread.square(), "b k h w -> b h w", "mean")
    return variance.sqrt()


@torch.no_grad()
def propose_boxes(
    saliency: Tensor,
    image_size: int | tuple[int, int],
    *,
    num_boxes: int,
    iou_threshold: float = IOU_THRESHOLD,
    cell_offset: float = 0.0,
    window_sides: Sequence[float] = WINDOW_SIDES,
) -> Tensor:
    """Find the parts of an image that hold the most saliency for their size.

    Windows of nine shapes (each pair of `window_sides`), in shares of the image whatever the map's
    size, are placed all over it and scored by

        score = (mean saliency inside) * (area) ^ AREA_EXPONENT

    The best is taken, those that overlap it too much are left out, and so on. Equal scores: the
    window nearer to the image's middle, then the larger, then the upper, then the left one; a
    constant saliency, as of an untrained model or a map of one cell, starts in the middle. When all
    windows are taken or left out before there are `num_boxes`, those left out get another round.

    Args:
        saliency: (b h w) finite, at least 0, any unit, h and w at least 1.
        image_size: of the images that the boxes are for, in pixels: a side, or (height, width).
        num_boxes: p, at most the number of windows, 1521 for the default sides.
        iou_threshold: in [0, 1]: the largest intersection over union of two boxes of a round.
        cell_offset: in [-1, 1]: how far right and down of the middle of its tile of the image each
            cell looks, as a share of the tile. `measure_cell_offset` measures it; padded
            convolutions of stride 2 make it -0.5 in most of the convolutional networks.
        window_sides: shares of the image's sides in (0, 1], multiples of 0.05.

    Returns:
        (b p 4) xyxy in pixels, inside the image, best first, without gradient, on the device of
        `saliency`.

    Raises:
        ValueError: if a shape, a number or a value of `saliency` is none of these.
        TypeError: if `saliency` is not floating point.

    Example:
        >>> saliency = torch.zeros(1, 14, 14)
        >>> saliency[0, 2:6, 1:5] = 1.0
        >>> propose_boxes(saliency, 448, num_boxes=2)[0, 0].tolist()
        [22.399999618530273, 67.19999694824219, 156.8000030517578, 201.60000610351562]
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_shape("saliency", saliency, "(b, h, w)")
    steps = _steps_of(window_sides)
    windows = _WINDOWS[steps] if steps in _WINDOWS else _list_windows(steps)
    windows = windows.to(saliency.device)
    _check_request(height, width, num_boxes, len(windows), iou_threshold, cell_offset)
    if not torch.compiler.is_compiling():  # a compiled graph cannot look at values
        valid = saliency.isfinite() & (saliency >= 0)
        if not bool(valid.all()):
            raise ValueError(
                "Expected `saliency` to be finite and at least 0, but got "
                f"{float(saliency[~valid][0])}. Is the model's output finite?"
            )
    scores = _scores(saliency, windows, cell_offset)
    taken = torch.zeros_like(scores, dtype=torch.bool)
    left_out = taken
    picks = []
    for _ in range(num_boxes):
        left_out = left_out & ~(taken | left_out).all(dim=1, keepdim=True)  # or another round
        pick = scores.masked_fill(taken | left_out, -1).argmax(dim=1, keepdim=True)  # first of ties
        taken = taken | (torch.arange(len(windows), device=pick.device) == pick)
        left_out = left_out | (box_iou(windows[pick[:, 0]], windows) > iou_threshold)
        picks.append(pick)
    # Steps times pixels first: that is exact, so the last step ends at the edge, not beyond. On
    # CUDA a division by a number would be a product with its inverse, which is not.
    found = windows[torch.cat(picks, dim=1)]
    pixels = found * found.new_tensor([width, height, width, height])
    return pixels / pixels.new_full((), GRID)


def propose_mixed_boxes(
    saliency: Tensor, image_size: tuple[int, int], num_boxes: int, cell_offset: float
) -> Tensor:
    """Propose parts, and of many boxes the last three in ten wide, to show the whole of a thing.

    On real birds that took the local stream from 75 % to 78 %, and both from 76 % to 77 % (ten
    boxes, cross-validated; docs/lab/trials.md).

    Args:
        saliency: (b h w) as in `propose_boxes`.
        image_size: (height, width) in pixels.
        num_boxes: p; up to three boxes are all small.
        cell_offset: as in `propose_boxes`.

    Returns:
        (b p 4) xyxy in pixels: the small ones best first, then the wide ones best first.
    """
    wide = 3 * num_boxes // 10
    boxes = [
        propose_boxes(
            saliency, image_size, num_boxes=count, cell_offset=cell_offset, window_sides=sides
        )
        for count, sides in ((num_boxes - wide, WINDOW_SIDES), (wide, WIDE_SIDES))
        if count
    ]
    return torch.cat(boxes, dim=1)


def _steps_of(sides: Sequence[float]) -> tuple[int, ...]:
    """Count the sides of windows in steps of the grid."""
    steps = tuple(round(side * GRID) for side in sides)
    exact = all(abs(side * GRID - count) < 1e-6 for side, count in zip(sides, steps, strict=True))
    if not steps or not exact or not all(1 <= count <= GRID for count in steps):
        raise ValueError(
            f"Expected `window_sides` to be shares in (0, 1], multiples of {1 / GRID}, but got "
            f"{tuple(sides)}."
        )
    return steps


def _list_windows(sides: tuple[int, ...]) -> Tensor:
    """List the windows (n 4), xyxy in steps of the grid, in the order in which ties are broken."""
    windows = [
        (x, y, x + width, y + height)
        for width in sides
        for height in sides
        for y in range(GRID - height + 1)
        for x in range(GRID - width + 1)
    ]

    def preference(window: tuple[int, int, int, int]) -> tuple[int, ...]:
        x0, y0, x1, y1 = window
        distance = (x0 + x1 - GRID) ** 2 + (y0 + y1 - GRID) ** 2
        return distance, -(x1 - x0) * (y1 - y0), y0, x0

    return torch.tensor(sorted(windows, key=preference), device="cpu", dtype=torch.float32)


_WINDOWS = {steps: _list_windows(steps) for steps in map(_steps_of, (WINDOW_SIDES, WIDE_SIDES))}


def _scores(saliency: Tensor, windows: Tensor, cell_offset: float) -> Tensor:
    """Score each window (b n), as multiples of `RESOLUTION` of the best one."""
    with torch.autocast(saliency.device.type, enabled=False):  # its types are too coarse to rank by
        maps = saliency.to(torch.promote_types(saliency.dtype, torch.float32))
        # Dividing by the largest value first keeps sums of very large ones finite.
        largest = reduce(maps, "b h w -> b 1 1", "max")
        maps = maps / largest.where(largest > 0, 1)
        grid = resample_cells(maps, (GRID, GRID), cell_offset)
        steps = torch.arange(GRID, device=maps.device) + 0.5
        x0, y0, x1, y1 = rearrange(windows.to(maps), "n corners -> corners n 1")
        in_columns = ((steps > x0) & (steps < x1)).to(maps)
        in_rows = ((steps > y0) & (steps < y1)).to(maps)
        mass = einsum(in_rows, grid, in_columns, "n y, b y x, n x -> b n")
        area = rearrange((x1 - x0) * (y1 - y0), "n 1 -> n")
        scores: Tensor = mass / area * (area / GRID**2) ** AREA_EXPONENT
        best = reduce(scores, "b n -> b 1", "max")
        return (scores / best.where(best > 0, 1) / RESOLUTION).round()


def _check_request(
    height: int,
    width: int,
    num_boxes: int,
    most: int,
    iou_threshold: float,
    cell_offset: float,
) -> None:
    if height < 1 or width < 1:
        raise ValueError(
            "Expected `image_size` to be a side or (height, width) of at least 1 pixel, but got "
            f"{(height, width)}."
        )
    if not 1 <= num_boxes <= most:
        raise ValueError(
            f"Expected `num_boxes` to be from 1 to {most}, the number of windows, but got "
            f"{num_boxes}."
        )
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"Expected `iou_threshold` to be in [0, 1], but got {iou_threshold}.")
    if not -1 <= cell_offset <= 1:
        raise ValueError(f"Expected `cell_offset` to be in [-1, 1], but got {cell_offset}.")
