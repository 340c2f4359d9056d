"""What people have their pictures in, brought to one form: an item, and the picture's place in it.

Nothing is imported for it: a data set is known by what it offers.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from torch.utils.data import Subset

from recurrent_attention._errors import listed, printable


class Source(NamedTuple):
    """Items, each with a picture and a label.

    Attributes:
        items: to be indexed by number.
        image: where its picture is in an item.
        label: where its label is in an item.
        labels: one for each item, where they are known without going over the items.
        class_names: None where the data set has none.
        loader: what opens a path instead of `open_picture`.
    """

    items: Any
    image: int | str
    label: int | str
    labels: Sequence[Any] | None = None
    class_names: Sequence[str] | None = None
    loader: Any = None


def find_source(
    items: Any, image: int | str | None, label: int | str | None, *, need_labels: bool
) -> Source:
    """Find out where the pictures and labels of a data set are; no picture is decoded.

    Args:
        items: a `datasets.Dataset`, a data set of torchvision, a `Subset` of these, or whatever has
            a length and is indexed.
        image: the column, key or place of the picture; None: what the data set says, or else 0.
        label: likewise of the label, or else 1.
        need_labels: False where the caller has them.

    Returns:
        The source. Files that the data set lists are its items, without its transforms.

    Raises:
        TypeError: if `items` is no data set.
        ValueError: if columns cannot be told apart, or there is none of that name.
    """
    _check(items)
    if hasattr(items, "cast_column") and hasattr(items, "features"):
        return _table(items, image, label, need_labels)
    if isinstance(items, Subset):
        whole = find_source(items.dataset, image, label, need_labels=need_labels)
        indices = [int(index) for index in items.indices]
        labels = None if whole.labels is None else [whole.labels[i] for i in indices]
        return whole._replace(items=Subset(whole.items, indices), labels=labels)
    found = Source(
        items,
        0 if image is None else image,
        1 if label is None else label,
        class_names=getattr(items, "classes", None),
    )
    if image is not None or label is not None:
        return found
    samples = getattr(items, "samples", None)  # of torchvision's ImageFolder: (path, label)
    if isinstance(samples, list) and len(samples) == len(items) and _lists_files(samples):
        loader = getattr(items, "loader", None)
        if getattr(loader, "__module__", "").startswith("torchvision."):
            loader = None  # it reads a file as it lies, not upright
        return found._replace(items=samples, labels=[row[1] for row in samples], loader=loader)
    targets: Any = getattr(items, "targets", None)
    if hasattr(targets, "__len__") and len(targets) == len(items):
        return found._replace(labels=targets)
    return found


def part_of(item: Any, place: int | str, name: str) -> Any:
    """Return what is at a place of an item.

    Args:
        item: a pair, a longer row, or a mapping.
        place: a number or a key.
        name: of the item, for the message.

    Raises:
        TypeError: if the item is none of these.
        ValueError: if it has no such place.
    """
    if not isinstance(item, tuple | list | Mapping):
        raise TypeError(
            f"Expected items (image, label), but {name} is of type {type(item).__name__}. Give "
            "pairs, or mappings with image= and label= to name the keys."
        )
    try:
        return item[place]  # type: ignore[index]  # as the two fit or not
    except (LookupError, TypeError):
        is_table = isinstance(item, Mapping)
        has = f"the keys {listed(list(item))}" if is_table else f"{len(item)} places"
        raise ValueError(
            f"Expected items with {place!r}, but {name} has {has}. Say where picture and label "
            "are: image=..., label=...."
        ) from None


def _check(items: Any) -> None:
    kind = type(items).__name__
    if isinstance(items, str | bytes | PathLike):
        raise TypeError(
            f"Expected `items` to be a data set, but got {printable(items)[:200]!r}. For a folder "
            "of pictures take PictureFolder."
        )
    if isinstance(items, Mapping):
        raise TypeError(
            f"Expected `items` to be one data set, but got a {kind} of {listed(list(items))}. Pass "
            "one of its parts."
        )
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise TypeError(
            f"Expected `items` to have a length and to be indexed, but got {kind}. Make a list of "
            "it: list(items)."
        )


def _lists_files(samples: list[Any]) -> bool:
    return all(
        isinstance(row, tuple | list) and len(row) == 2 and isinstance(row[0], str | PathLike)
        for row in samples
    )


def _table(
    table: Any, image: int | str | None, label: int | str | None, need_labels: bool
) -> Source:
    """Read the columns of a `datasets.Dataset`; its own decoding, format and transform are left.

    Pictures stay the bytes of their files, which `open_picture` reads as it does all files.
    """
    features = table.features
    image = _column(features, "image", image, "Image")
    table = table.with_format(None)
    names, labels = None, None
    if need_labels:
        label = _column(features, "label", label, "ClassLabel")
        names = getattr(features[label], "names", None)
        labels = table.select_columns([label])[:][label]
    table = table.select_columns([image])
    feature = features[image]
    if type(feature).__name__ == "Image":
        table = table.cast_column(image, type(feature)(decode=False))
    return Source(table, image, "" if label is None else label, labels, names)


def _column(features: Mapping[str, Any], what: str, named: int | str | None, kind: str) -> str:
    """Return the column that was named, or else the only one of its kind."""
    if named is not None:
        if named not in features:
            raise ValueError(
                f"Expected `{what}` to be one of the columns {', '.join(map(printable, features))},"
                f" but got {named!r}."
            )
        return str(named)
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        those = f" ({listed(found)})" if found else ""
        raise ValueError(
            f"Expected `items` to have one column of the feature {kind}, but "
            f"{len(found)} of {', '.join(map(printable, features))} are{those}. Name it: "
            f"{what}=...."
        )
    return found[0]
