"""Which pictures and patches a prediction takes, and one sentence for each that it does not."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

PICTURE_CHANNELS = (1, 3, 4)  # of gray, RGB and RGBA, as which any picture can be opened


def is_one(images: Any) -> bool:
    """Return whether it is one picture rather than several.

    Args:
        images: as in `predict`.

    Returns:
        False for a list, an iterator or another iterable, and for a tensor (b c h w) or an array
        (b h w c).
    """
    if isinstance(images, Tensor | np.ndarray):
        return images.ndim != 4
    single = isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image | Set | Mapping)
    return single or hasattr(images, "read") or not isinstance(images, Iterable)


def is_normalised(image: Any) -> bool:
    """Return whether it is a floating-point tensor, which streams take as it is."""
    return isinstance(image, Tensor) and image.is_floating_point()


def check_picture(picture: Any, place: str, *, in_chans: int) -> None:
    """Refuse what is no picture, as far as that can be told without reading it.

    Args:
        picture: one of what `predict` takes.
        place: behind the name `images`, for the message: "" for a single picture, else "[2]".
        in_chans: channels that the model takes.

    Raises:
        ValueError: if a tensor or an array has another shape, or holds NaN or infinity, or if the
            model takes channels that no file is read with.
        TypeError: if the type, or the dtype of a tensor or an array, is none of those.
    """
    name = f"`images{place}`"
    if isinstance(picture, Tensor):
        _check_tensor(picture, name, in_chans, alone=not place)
    elif isinstance(picture, np.ndarray):
        _check_array(picture, name, in_chans)
    elif isinstance(picture, io.TextIOBase):
        raise TypeError(
            f"Expected {name} to be a file opened in binary mode, but got one opened as text. Open "
            "it with open(path, 'rb')."
        )
    elif not (isinstance(picture, str | os.PathLike | Image.Image) or hasattr(picture, "read")):
        raise TypeError(
            f"Expected {name} to be a path, a PIL image, an open binary file, an array or a tensor"
            f"{'' if place else ', or a list of these'}, but got {type(picture).__name__}."
            + _hint(picture)
        )
    elif in_chans not in PICTURE_CHANNELS:
        raise ValueError(
            f"Expected {name} to be a normalised tensor ({in_chans}, h, w) or an array (h, w, "
            f"{in_chans}) of uint8, because the model has in_chans={in_chans} and files are read "
            "as gray, RGB or RGBA."
        )


def given_by_picture(boxes: Any, patches: Any, places: Sequence[str]) -> list[Tensor | None]:
    """Return the boxes or the patches that the caller gave for each picture.

    Args:
        boxes: as in `predict`.
        patches: as in `predict`.
        places: of the pictures, as in `check_picture`.

    Returns:
        For each picture boxes (p 4), patches (p 3 h w), or None where neither is given.

    Raises:
        ValueError: if both are given, there are more or fewer entries than pictures, or one has
            another shape or holds NaN or infinity.
        TypeError: if an entry is not made of numbers.
    """
    if boxes is not None and patches is not None:
        raise ValueError(
            "Expected `patches` or `boxes` of pictures, but got both. Boxes are cut out of the "
            "pictures; leave out `patches`."
        )
    if boxes is not None:
        return _by_picture(boxes, "boxes", "(p, 4)", places)
    if patches is not None:
        return _by_picture(patches, "patches", "(p, 3, h, w)", places)
    return [None] * len(places)


def _by_picture(given: Any, name: str, shape: str, places: Sequence[str]) -> list[Tensor | None]:
    entries = [given] if list(places) == [""] else given
    if isinstance(entries, Tensor | np.ndarray) and entries.ndim > 0:
        entries = list(entries)
    if not isinstance(entries, Sequence) or len(entries) != len(places):
        got = len(entries) if isinstance(entries, Sequence) else type(entries).__name__
        raise ValueError(
            f"Expected `{name}` to hold an entry for each of the {len(places)} pictures, but got "
            f"{got}."
        )
    found: list[Tensor | None] = []
    for entry, place in zip(entries, places, strict=True):
        try:
            # torch refuses negative strides, as of reversed rows.
            plain = np.ascontiguousarray(entry) if isinstance(entry, np.ndarray) else entry
            tensor = torch.as_tensor(plain)
        except (TypeError, ValueError, RuntimeError):  # words, ragged lists, lists of tensors
            raise TypeError(
                f"Expected `{name}{place}` to be a tensor of {name} {shape}, but got "
                f"{type(entry).__name__}."
            ) from None
        if tensor.ndim != shape.count(",") + 1 or len(tensor) == 0:
            other = {"boxes": "patches", "patches": "boxes"}[name]
            hint = f" Pass {other} as `{other}`." if tensor.ndim in (2, 4) and len(tensor) else ""
            raise ValueError(
                f"Expected `{name}{place}` to have shape {shape}, with p of at least 1, but got "
                f"{tuple(tensor.shape)}.{hint}"
            )
        check_finite(tensor, f"`{name}{place}`")
        found.append(tensor)
    return found


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuse NaN and infinity.

    Args:
        tensor: of any shape.
        name: for the message.

    Raises:
        ValueError: if it holds one.
    """
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(
            f"Expected {name} to hold finite numbers, but {bad} of its {tensor.numel()} are NaN or "
            "infinite."
        )


def check_answers(*logits: Tensor | None) -> None:
    """Refuse answers that are no numbers: sorted, NaN would come first.

    Args:
        *logits: of a model, in any shape; None is passed over.

    Raises:
        ValueError: if one is NaN or infinite.
    """
    if not all(bool(torch.isfinite(some).all()) for some in logits if some is not None):
        raise ValueError(
            "Expected the model to answer with finite numbers, but got NaN or infinity. Are its "
            "weights finite, and in a precision that holds its logits?"
        )


def _check_tensor(picture: Tensor, name: str, channels: int, *, alone: bool) -> None:
    if picture.ndim != 3 or picture.shape[0] != channels or picture.numel() == 0:
        forms = f"({channels}, h, w)" + (f" or (b, {channels}, h, w)" if alone else "")
        hint = ""
        if picture.ndim == 3 and picture.shape[2] == channels:
            hint = " Move the channels to the front: permute(2, 0, 1)."
        raise ValueError(
            f"Expected {name} to have shape {forms}, but got {tuple(picture.shape)}.{hint}"
        )
    if not (picture.is_floating_point() or picture.dtype == torch.uint8):
        raise TypeError(
            f"Expected {name} to be torch.uint8 (pixels 0 to 255) or floating point (normalised), "
            f"but got {picture.dtype}."
        )
    check_finite(picture, name)


def _check_array(picture: NDArray[Any], name: str, channels: int) -> None:
    if picture.dtype != np.uint8:
        raise TypeError(
            f"Expected {name} to be an array of uint8 (pixels 0 to 255), but got {picture.dtype}. "
            "Scale it, or pass a normalised tensor."
        )
    taken = (*PICTURE_CHANNELS, channels) if channels in PICTURE_CHANNELS else (channels,)
    gray = picture.ndim == 2 and 1 in taken
    if not (gray or (picture.ndim == 3 and picture.shape[2] in taken)) or picture.size == 0:
        forms = "(h, w, 3), (h, w, 4) or (h, w)" if 1 in taken else f"(h, w, {channels})"
        hint = ""
        if picture.ndim == 3 and picture.shape[0] in taken:
            hint = " Move the channels to the end: transpose(1, 2, 0)."
        raise ValueError(f"Expected {name} to have shape {forms}, but got {picture.shape}.{hint}")


def _hint(picture: Any) -> str:
    if isinstance(picture, bytes | bytearray):
        return " Wrap it in io.BytesIO."
    if isinstance(picture, Set | Mapping):
        return " It has no order for the answers to follow: make it a list."
    if isinstance(picture, Iterable):
        return " Make it a flat list."
    return ""
