"""Which class is meant: an index, a name, or one of them for each image."""

import operator
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
from torch import Tensor

from recurrent_attention._errors import printable

Target: TypeAlias = int | str | Tensor | Sequence[int | str] | None


def class_indices(
    target: Target,
    batch: int,
    num_classes: int,
    class_names: Sequence[str] | None,
    argument: str = "target",
) -> Tensor | None:
    """Turn what the caller calls a class into one index for each image.

    Args:
        target: an index in [0, k), a name, also as figures show it, or b of them; None stays None.
        batch: b, the number of images.
        num_classes: k.
        class_names: k names, or None.
        argument: what the caller's argument is called.

    Returns:
        (b) class indices, on the CPU, or None.

    Raises:
        ValueError: if there is no such class, or several of that name, or there are not b of them.
        TypeError: if something is neither an index nor a name.

    Example:
        >>> class_indices("coot", 2, 3, ["auk", "coot", "dodo"])
        tensor([1, 1])
        >>> class_indices([2, "auk"], 2, 3, ["auk", "coot", "dodo"])
        tensor([2, 0])
    """
    if target is None:
        return None
    if getattr(target, "ndim", 0) > 1:
        raise ValueError(
            f"Expected `{argument}` to have shape (b,), but got "
            f"{tuple(getattr(target, 'shape', ()))}. Of logits pass the largest: "
            f"{argument}.argmax(1)."
        )
    classes: Any = target.tolist() if hasattr(target, "tolist") else target
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        classes = [classes] * batch
    if len(classes) != batch:
        raise ValueError(
            f"Expected `{argument}` to name one class, or one for each of the {batch} images, but "
            f"got {len(classes)}."
        )
    found = [_class_index(one, num_classes, class_names, argument) for one in classes]
    return torch.tensor(found).long()


def _class_index(
    target: Any, num_classes: int, class_names: Sequence[str] | None, argument: str
) -> int:
    if isinstance(target, str):
        return _index_of_name(target, class_names, argument)
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        raise TypeError(f"Expected `{argument}` to be a class index or name, but got {target!r}.")
    index = operator.index(target)
    if not 0 <= index < num_classes:
        raise ValueError(
            f"Expected `{argument}` to be a class index in [0, {num_classes}), but got {index}."
        )
    return index


def _index_of_name(name: str, class_names: Sequence[str] | None, argument: str) -> int:
    if class_names is None:
        raise ValueError(
            f"Expected `{argument}` to be a class index, but got the name {name!r}, and the model "
            "knows no names. Build it with `class_names`."
        )
    for same in (str, readable):  # as it is; else as figures show it
        found = [index for index, own in enumerate(class_names) if same(own) == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"Expected `{argument}` to name one class, but {name!r} is the name of several: "
                f"{', '.join(map(str, found))}. Give the index."
            )
    near = [repr(match) for match in get_close_matches(name, class_names, n=3)]
    hint = f"Did you mean {', '.join(near)}?" if near else "`model.class_names` lists them."
    raise ValueError(
        f"Expected `{argument}` to be one of the model's {len(class_names)} class names, but got "
        f"{name!r}. {hint}"
    )


def shown_name(index: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class as people read it, or its index where the model has no names."""
    return f"class {index}" if class_names is None else readable(class_names[index])


def readable(name: str) -> str:
    """Make a class name of CUB or ImageNet readable.

    Example:
        >>> readable("004.Red_crowned_Finch"), readable("n02085620-Chihuahua"), readable("7")
        ('Red crowned Finch', 'Chihuahua', '7')
    """
    short = re.sub(r"^(\d+[.\-_ ]+|n\d{8}-)(?=.)", "", printable(name))
    return short.replace("_", " ").strip()
