"""What is trained on: the samples of one or several data sets, with the labels of the model."""

import copy
import hashlib
import json
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, overload

from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from recurrent_attention._errors import listed
from recurrent_attention.classifier import TwoStreamClassifier
from recurrent_attention.data.augmentation import name_of_augment
from recurrent_attention.data.pictures import Pictures, require_pictures
from recurrent_attention.data.two_stream import TwoStreamDataset


class Samples(Dataset[tuple[Any, ...]]):
    """One data set out of `TwoStreamDataset`s, their subsets and their concatenations.

    `labels` has, for each part, the class index of each picture, whose names are `class_names`.
    """

    def __init__(
        self,
        parts: Sequence[TwoStreamDataset],
        labels: Sequence[Sequence[int]],
        class_names: tuple[str, ...],
    ) -> None:
        self.parts = tuple(parts)
        self.labels = tuple(label for part in labels for label in part)
        self.class_names = class_names
        self._starts = list(accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, index: int) -> tuple[TwoStreamDataset, int]:
        """Return the part that a picture is in, and its number there."""
        number = bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        part, place = self.place(index)
        image, patches, _, *more = part[place]
        return image, patches, self.labels[index], *more

    @property
    def names(self) -> tuple[str, ...]:
        """Relative file names."""
        return tuple(name for part in self.parts for name in part.pictures.names)

    def boxes(self, index: int) -> Tensor:
        """Return the boxes (n 4) of a picture."""
        part, place = self.place(index)
        return part.boxes[part.pictures.names[place]]

    def digest(self) -> str:
        """Name the data by pictures' names and labels, their boxes, and how they are shown."""
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels):
            part, place = self.place(index)
            name = part.pictures.names[place]
            # A name that is no UTF-8 keeps its bytes.
            digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))
            digest.update(part.boxes[name].contiguous().numpy().tobytes())
        for part in self.parts:
            left_out = ("pictures", "boxes", "augment")
            shown = {k: v for k, v in vars(part).items() if k not in left_out}
            shown["augment"] = name_of_augment(part.augment)
            digest.update(json.dumps(shown, sort_keys=True, default=str).encode())
        return f"{len(self)} pictures, {digest.hexdigest()[:16]}"


class ShownBoxes(Sequence[Tensor]):
    """The boxes (p 4) of each picture that a model without chance looks at."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(len(self))[index])
        number = range(len(self))[index]
        part, _ = self._samples.place(number)
        return self._samples.boxes(number)[: part.num_patches]


def samples_of(
    model: TwoStreamClassifier,
    data: Any,
    name: str,
    *,
    class_names: tuple[str, ...] | None = None,
    stacklevel: int,
) -> Samples:
    """Put the data together that a model is trained or evaluated on, or refuse it.

    `data` is a `TwoStreamDataset`, or torch's `Subset` or `ConcatDataset` of some; a message calls
    it `name`. Labels are by the model's class names, or else by `class_names`, or else the data's.
    Warn, at the caller's line, of pictures that the model's backbone wants otherwise.
    """
    parts = [part for part in _parts(data, name) if len(part)]
    if not parts:
        raise ValueError(f"Expected `{name}` to hold at least one picture, but it is empty.")
    for part in parts:
        _warn_of_look(model, part, name, stacklevel + 2)
    ours = model.class_names or class_names or parts[0].pictures.class_names
    return Samples(parts, [labels_for(model, part.pictures, ours) for part in parts], ours)


def labels_for(
    model: TwoStreamClassifier, pictures: Pictures, class_names: tuple[str, ...] | None = None
) -> tuple[int, ...]:
    """Return the model's class index for each picture: by the class's name where both have names.

    A model without names takes `class_names`, or else those of the pictures.
    """
    inside = isinstance(getattr(pictures, "pictures", None), Pictures)
    require_pictures(pictures, " Pass its `pictures`." if inside else "")
    theirs = pictures.class_names
    ours = model.class_names or class_names or theirs
    if theirs == ours:
        if len(theirs) > model.num_classes:
            raise ValueError(
                f"Expected data of at most {model.num_classes} classes, as the model has, but got "
                f"{len(theirs)}. Build the model with num_classes={len(theirs)}."
            )
        return pictures.labels
    unknown = [name for name in theirs if ours.count(name) != 1]
    if unknown:
        raise ValueError(
            f"Expected data of classes that the model has, by name, but {len(unknown)} of "
            f"{len(theirs)} are not among its {len(ours)}: {listed(unknown)}. Give the data the "
            f"model's names, such as {listed(ours)}, or build the model with these."
        )
    place = {name: index for index, name in enumerate(ours)}
    return tuple(place[theirs[label]] for label in pictures.labels)


def _parts(data: Any, name: str) -> list[TwoStreamDataset]:
    if isinstance(data, TwoStreamDataset):
        return [data]
    if isinstance(data, Subset):
        whole = _parts(data.dataset, name)
        if len(whole) > 1:  # the subset's indices are not those of one data set
            raise TypeError(
                f"Expected `{name}` to be subsets of single data sets, but got a Subset of a "
                "ConcatDataset. Take the subsets first, and concatenate them."
            )
        chosen = copy.copy(whole[0])
        chosen.pictures = chosen.pictures.subset([int(index) for index in data.indices])
        return [chosen]
    if isinstance(data, ConcatDataset):
        return [part for one in data.datasets for part in _parts(one, name)]
    hint = " TwoStreamDataset.for_model(model, pictures, boxes) makes one of these."
    raise TypeError(
        f"Expected `{name}` to be a TwoStreamDataset, or a Subset or ConcatDataset of some, but "
        f"got {type(data).__name__}.{hint if isinstance(data, Pictures) else ''}"
    )


def _warn_of_look(
    model: TwoStreamClassifier, data: TwoStreamDataset, name: str, stacklevel: int
) -> None:
    wanted: dict[str, Any] = {"image_size": model.image_size, "patch_size": model.patch_size}
    wanted |= {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
    for key, right in wanted.items():
        found, right = getattr(data, key), tuple(right) if isinstance(right, list) else right
        if found != right:
            warnings.warn(
                f"Expected `{name}` to show pictures with {key}={right}, as the model's backbone "
                f"wants them and `predict` shows them, but got {key}={found}. "
                "TwoStreamDataset.for_model(model, pictures, boxes) takes it from the model.",
                stacklevel=stacklevel,
            )
            return
