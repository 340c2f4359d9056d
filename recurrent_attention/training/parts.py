"""What a folder of pictures holds: something to learn from, to choose by, and to measure."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from recurrent_attention._errors import listed, printable
from recurrent_attention.data import PictureFolder, Pictures
from recurrent_attention.data.checking.layout import official_layout, words_for
from recurrent_attention.data.folder import others_of, parts_of
from recurrent_attention.images.reading import picture_suffixes

VALIDATION_SHARE, TEST_SHARE = 0.15, 0.2  # of each class, where the folder has no such part
OTHERS = ("val", "test")


class Parts(NamedTuple):
    """The pictures of a folder in three parts: train, validation and test.

    Attributes:
        found: what the folder holds, in words.
        train: to learn from.
        validation: chooses the epoch.
        test: is measured once, at the end.
    """

    found: str
    train: Pictures
    validation: Pictures
    test: Pictures

    def check_none_empty(self) -> None:
        """Refuse parts without a picture, before anything is trained on the others."""
        for name, part in self.by_name().items():
            if len(part) == 0:
                raise ValueError(
                    f"Expected at least one picture for each of train, validation and test in "
                    f"{self.found}, but got none for {name}. Add pictures: a share of each class "
                    "is split off, rounded to whole pictures, where a folder has no such part."
                )

    def by_name(self) -> dict[str, Pictures]:
        """Return the three by their names, the training pictures first."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def parts_of_folder(data: str | PathLike[str], *, seed: int = 0) -> Parts:
    """Find out what a folder holds, and split off what it does not have by itself.

    Args:
        data: a folder with a folder for each class; or with `train`, and `val` and `test` or one of
            these; or CUB-200-2011 or Stanford Dogs in its official layout.
        seed: of the splits, which have the same share of every class.

    Returns:
        `Parts`. Without a test part a fifth of the pictures is split off, without a validation part
        15 % of what is left. With `train` and `val` alone, `val` is also the test.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it or in one of its parts.
        ValueError: if there is nothing to train on, or a single class, or a class without training
            pictures.

    Warns:
        UserWarning: of classes without pictures, and of files that are no pictures.
    """
    found, splits = splits_of_folder(Path(data))
    first = "all" if "all" in splits else "train"
    train = splits.pop(first)() if first in splits else None
    if train is None:
        raise ValueError(
            f"Expected a folder `train` in {printable(data)}, or one for each class, but got "
            f"{', '.join(splits)}."
        )
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected pictures of two or more classes in {printable(data)}, but got "
            f"{len(train.class_names)}: {listed(train.class_names)}."
        )
    names = train.class_names
    validation, test = (splits[n](class_names=names) if n in splits else None for n in OTHERS)
    if test is None and validation is None:
        train, test = train.split(TEST_SHARE, seed=seed)
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed=seed)
    return Parts(found, train, validation, test if test is not None else validation)


def listing_of(*parts: Pictures, by_name: bool = False) -> str:
    """Name pictures by their number and a digest of names, labels and the sizes of their files.

    Args:
        *parts: of the same classes.
        by_name: whatever their order is and the parts that they are in.
    """
    rows = []
    for pictures in parts:
        for index, (name, label) in enumerate(zip(pictures.names, pictures.labels, strict=True)):
            # A data set with an `open` of its own may have no files.
            size = pictures.path(index).stat().st_size if pictures.is_plain else 0
            rows.append((name, label, size))
    digest = hashlib.sha256(json.dumps(parts[0].class_names).encode())
    for row in sorted(rows) if by_name else rows:
        digest.update(json.dumps(row).encode())
    return f"{len(rows)} pictures, {digest.hexdigest()[:16]}"


def splits_of_folder(folder: Path) -> tuple[str, dict[str, Callable[..., Pictures]]]:
    """Find the splits of a folder, and warn of pictures that are in none.

    Args:
        folder: as in `parts_of_folder`.

    Returns:
        What the folder holds, in words; and by name a function that lists the pictures: of "all",
        or of "train", "val" and "test" or some of these. It takes `class_names` as `PictureFolder`
        does; an official data set has its own.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if two folders are of the same split.
    """
    official = official_layout(folder)
    if official is not None:
        return official.name, {n: partial(_as_it_is, p) for n, p in official.splits.items()}
    names = parts_of(folder)
    if not names:
        return words_for([]), {"all": partial(PictureFolder, folder)}
    splits: dict[str, Callable[..., Pictures]] = {}
    for name in names:
        split = next(s for s in ("train", *OTHERS) if name.lower().startswith(s))
        if split in splits:
            raise ValueError(
                f"Expected one folder for each of train, val and test in {printable(folder)}, but "
                f"got {', '.join(map(printable, names))}. Put two of them together."
            )
        splits[split] = partial(PictureFolder, folder / name)
    loose = [entry for entry in folder.iterdir() if entry.suffix.lower() in picture_suffixes()]
    left_out = sorted(entry.name for entry in {*loose, *others_of(folder, names)})
    if left_out:
        warnings.warn(
            f"Left out of {printable(folder)}: {len(left_out)} beside {', '.join(names)} "
            f"({listed(left_out)}).",
            stacklevel=3,
        )
    return words_for(names), splits


def _as_it_is(pictures: Pictures, class_names: Sequence[str] | None = None) -> Pictures:
    return pictures
