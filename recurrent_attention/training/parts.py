"""What a folder of pictures holds: something to learn from, to choose by, and to measure."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

from recurrent_attention.data import Pictures
from recurrent_attention.data.checking.layout import find_layout

VALIDATION_SHARE, TEST_SHARE = 0.15, 0.2  # of each class, where the folder has no such part


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
        15 % of what is left. Of `train` and `val` alone, `val` is both.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it.
        ValueError: if there is nothing to train on, or a single class.
    """
    layout = find_layout(Path(data))
    parts = dict(layout.splits)
    train = parts.pop("train", None) or parts.pop("all", None)
    if train is None:
        raise ValueError(
            f"Expected a folder `train` in {data}, or one for each class, but got "
            f"{', '.join(parts)}."
        )
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected pictures of two or more classes in {data}, but got "
            f"{len(train.class_names)}: {', '.join(train.class_names)}."
        )
    validation, test = parts.get("val"), parts.get("test")
    if test is None and validation is None:
        train, test = train.split(TEST_SHARE, seed=seed)
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed=seed)
    return Parts(layout.name, train, validation, test if test is not None else validation)
