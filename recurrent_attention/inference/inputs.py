"""Pictures as people have them (files, PIL images, tensors), made ready for the two streams."""

import os
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recurrent_attention._errors import printable
from recurrent_attention.images.reading import open_picture
from recurrent_attention.images.views import cut_views, mode_of, pixels_of
from recurrent_attention.inference.checks import (
    PICTURE_CHANNELS,
    check_picture,
    given_by_picture,
    is_normalised,
    is_one,
)
from recurrent_attention.network import TwoStreamNetwork
from recurrent_attention.ops import crop_patches
from recurrent_attention.ops.boxes import check_boxes, clip_boxes

Picture = str | os.PathLike[str] | IO[bytes] | Image.Image | NDArray[np.uint8] | Tensor
# MobileNetV2 at 448, ten patches, a thread: 317 ms a picture, two at once 484, eight at once 847.
PICTURES_PER_PASS_CPU = 1
PICTURES_PER_PASS = 8  # on other devices; with ten patches each these are 88 views


class StreamInputs(NamedTuple):
    """Some pictures as both streams take them, on the model's device and in its dtype.

    Attributes:
        images: (b c h w) the whole pictures, normalised.
        patches: (b p c h w) parts of them, normalised.
        boxes: for each picture (p 4), where its patches lie, xyxy in pixels of the upright picture,
            or None where the caller gave ready patches.
        pictures: each upright, in the mode of the model's channels, or None where the caller gave a
            normalised tensor, or pixels of other channels than 1, 3 or 4.
    """

    images: Tensor
    patches: Tensor
    boxes: list[Tensor | None]
    pictures: list[Image.Image | None]


class PictureItem(NamedTuple):
    """One picture: what patches are cut from, its whole view, and where to look.

    Attributes:
        source: upright pixels (c h w) uint8, or the caller's normalised tensor (c h w).
        picture: the same as a PIL image, where there is one.
        view: (c h w).
        boxes: (p 4) xyxy in pixels of `source`, once they are known.
        patches: (p c h w) of the caller.
    """

    source: Tensor
    picture: Image.Image | None
    view: Tensor
    boxes: Tensor | None = None
    patches: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the source."""
        return self.source.shape[2], self.source.shape[1]

    @property
    def form(self) -> tuple[torch.Size | bool | None, ...]:
        """What has to agree for pictures to go through the model together."""
        given = (self.boxes, self.patches)
        shapes = [None if found is None else found.shape for found in given]
        # Boxes are proposed in another view of pixels than of a normalised tensor: `_finer_view`.
        return (self.source.is_floating_point(), self.view.shape, *shapes)

    def first(self, looks: int | None) -> "PictureItem":
        """Keep so many boxes or patches; None keeps all."""
        boxes = None if self.boxes is None else self.boxes[:looks]
        return self._replace(
            boxes=boxes, patches=None if self.patches is None else self.patches[:looks]
        )


def stream_inputs(
    model: TwoStreamNetwork,
    images: Picture | Iterable[Picture],
    boxes: Any = None,
    patches: Any = None,
    *,
    looks: int | None = None,
) -> Iterator[StreamInputs]:
    """Read pictures and cut their patches, a few pictures at a time, in their order.

    Args:
        model: has sizes and normalisation, and proposes boxes where neither these nor patches are
            given, in whatever mode it is.
        images: as in `predict`. An iterator is gone over as the pictures are answered.
        boxes: as in `predict`.
        patches: as in `predict`.
        looks: patches of each picture, at most; None takes all.

    Yields:
        `StreamInputs` of few pictures, so that a long list needs no more memory than a short one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is no picture, or a shape, a number or a box does not fit.
        TypeError: if something has a type that is not taken.
    """
    for items in of_one_form(read_items(model, images, boxes, patches), pictures_per_pass(model)):
        yield _together(model, [item.first(looks) for item in with_boxes(model, items)])


def pictures_per_pass(model: TwoStreamNetwork) -> int:
    """Return how many pictures go through a model together, on the device where it is."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return PICTURES_PER_PASS_CPU if on_cpu else PICTURES_PER_PASS


def of_one_form(items: Iterable[PictureItem], most: int) -> Iterator[list[PictureItem]]:
    """Put neighbours of one form into lists of at most `most`."""
    waiting: list[PictureItem] = []
    for item in items:
        if waiting and item.form != waiting[0].form:
            yield waiting
            waiting = []
        waiting.append(item)
        if len(waiting) == most:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def read_items(
    model: TwoStreamNetwork, images: Any, boxes: Any = None, patches: Any = None
) -> Iterator[PictureItem]:
    """Read pictures one by one, in their order; nothing is proposed and no patch is cut yet.

    Args:
        model: as in `stream_inputs`, and so are the others.
        images: as there.
        boxes: as there.
        patches: as there.

    Yields:
        A `PictureItem` each.

    Raises:
        FileNotFoundError: as in `stream_inputs`, and so are the others.
        ValueError: as there.
        TypeError: as there.
    """
    for item, place, given in _with_places(images, boxes, patches, model.global_backbone.in_chans):
        ready = _read(model, item, place)
        yield ready if given is None else _with_given(model, ready, given, item, place)


def _with_places(
    images: Any, boxes: Any, patches: Any, in_chans: int
) -> Iterator[tuple[Any, str, Tensor | None]]:
    """Go over pictures, what to call each in a message, and the boxes or patches given for it."""
    alone = is_one(images)
    if not alone and boxes is None and patches is None and isinstance(images, Iterator):
        for index, item in enumerate(images):
            check_picture(item, f"[{index}]", in_chans=in_chans)
            yield item, f"[{index}]", None
        return
    items: list[Any] = [images] if alone else list(images)
    places = [""] if alone else [f"[{index}]" for index in range(len(items))]
    for item, place in zip(items, places, strict=True):  # before any of them is worked on
        check_picture(item, place, in_chans=in_chans)
    yield from zip(items, places, given_by_picture(boxes, patches, places), strict=True)


def _read(model: TwoStreamNetwork, picture: Any, place: str) -> PictureItem:
    if is_normalised(picture):
        model.global_backbone.check(picture[None], name=f"images{place}")
        return PictureItem(picture, None, picture)
    in_chans = model.global_backbone.in_chans
    found: Image.Image | None = None
    if isinstance(picture, Tensor):
        pixels = picture.cpu()
        if in_chans in PICTURE_CHANNELS:
            array = rearrange(pixels, "c h w -> h w c").numpy()
            found = Image.fromarray(array[..., 0] if in_chans == 1 else array)
    elif isinstance(picture, np.ndarray) and in_chans not in PICTURE_CHANNELS:
        pixels = pixels_of(picture)
    else:
        name = f"`images{place}`" if place else None
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)
        found = open_picture(picture, name=name, mode=mode_of(in_chans))
        pixels = pixels_of(found)
    whole = torch.tensor([[0, 0, pixels.shape[2], pixels.shape[1]]])
    return PictureItem(pixels, found, _cut(model, pixels, whole, model.image_size)[0])


def _with_given(
    model: TwoStreamNetwork, item: PictureItem, given: Tensor, picture: Any, place: str
) -> PictureItem:
    """Add the caller's patches (p c h w), or those in the caller's boxes (p 4)."""
    if given.ndim == 4:
        model.local_backbone.check(given, name=f"patches{place}")
        return item._replace(patches=given)
    name = f"`images{place}`"
    if isinstance(picture, str | os.PathLike):
        name = printable(os.fspath(picture)) + (f" ({name})" if place else "")
    boxes = given.cpu().float()
    check_boxes(boxes, item.size, name)
    return _with_boxes(item, boxes)


def _with_boxes(item: PictureItem, boxes: Tensor) -> PictureItem:
    return item._replace(boxes=clip_boxes(boxes, torch.tensor([0.0, 0.0, *item.size])))


def _cut(model: TwoStreamNetwork, source: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes (p 4) out of a picture: (p c size size), normalised."""
    if source.is_floating_point():
        return crop_patches(source[None], boxes[None], size=size)[0]
    look = {name: model.data_config[name] for name in ("mean", "std", "interpolation")}
    return cut_views(source, boxes, size, **look)


def _finer_view(model: TwoStreamNetwork, item: PictureItem) -> Tensor:
    """Show the whole picture (c h w) at the size at which the model proposes."""
    side = model.proposal_size
    if item.source.is_floating_point() or side == item.view.shape[2]:
        return item.view
    return _cut(model, item.source, torch.tensor([[0, 0, *item.size]]), side)[0]


def with_boxes(model: TwoStreamNetwork, items: list[PictureItem]) -> list[PictureItem]:
    """Let the model propose where to look in pictures of one form that have neither box nor patch.

    Args:
        model: in whatever mode it is.
        items: of one form.

    Returns:
        The items, with boxes; those that have boxes or patches as they are.
    """
    if items[0].boxes is not None or items[0].patches is not None:
        return items
    parameter = next(model.parameters())
    finer = torch.stack([_finer_view(model, item).to(parameter) for item in items])
    height, width = finer.shape[2:]
    proposed = model.propose(finer).cpu().float() / torch.tensor([width, height] * 2)
    return [
        _with_boxes(item, boxes * torch.tensor(item.size * 2))
        for item, boxes in zip(items, proposed, strict=True)
    ]


def patch_of(model: TwoStreamNetwork, item: PictureItem, look: int) -> Tensor:
    """Return the patch (c h w) of a look, cut now where the caller gave none.

    Args:
        model: has its size and normalisation.
        item: with boxes or patches.
        look: from 0.
    """
    if item.patches is not None:
        return item.patches[look]
    assert item.boxes is not None
    return _cut(model, item.source, item.boxes[look : look + 1], model.patch_size)[0]


def _together(model: TwoStreamNetwork, items: list[PictureItem]) -> StreamInputs:
    """Stack pictures of one form, with their patches."""
    parameter = next(model.parameters())
    images = torch.stack([item.view.to(parameter) for item in items])
    patches = []
    for item in items:
        found = item.patches
        if found is None:
            assert item.boxes is not None
            found = _cut(model, item.source, item.boxes, model.patch_size)
        patches.append(found.to(parameter))
    boxes = [item.boxes for item in items]
    return StreamInputs(images, torch.stack(patches), boxes, [item.picture for item in items])
