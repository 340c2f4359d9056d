"""Drawn birds that differ by one small mark: the data set that needs nothing from outside."""

import json
from pathlib import Path
from typing import Literal

from drawn_birds.writer import ARGUMENTS_FILE, EDITION, write_synthetic_birds
from recurrent_attention.data import CUB200


class SyntheticBirds(CUB200):
    """Drawn birds whose classes differ by one small mark, in CUB's layout; drawn when first used.

    The embedded data set: it needs no network and no file. Everything but the mark varies freely:
    pose, size, place, body colour, light, background. Boxes laid at random over each bird
    (`folder / "patches"`) do not know which part tells the class.

    Args:
        root: The folder to read, drawn first if it is absent or empty.
        split: "train", "test", or "all" for both.
        num_classes: How many classes, at most 10.
        train_per_class: Training pictures of each class.
        test_per_class: Test pictures of each class.
        picture_size: Longer side of the pictures in pixels.
        seed: Of everything drawn; the same arguments give the same files.
        progress: Whether to show a bar while drawing.

    Raises:
        FileExistsError: If `root` holds something else, or birds drawn with other arguments.
        ValueError: If a count is out of its range.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> birds = SyntheticBirds(root, train_per_class=1, test_per_class=1, progress=False)
        >>> len(birds), birds.class_names[3]
        (10, '004.Red_crowned_Finch')
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test", "all"] = "train",
        *,
        num_classes: int = 10,
        train_per_class: int = 100,
        test_per_class: int = 50,
        picture_size: int = 256,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        root = Path(root)
        arguments = {
            "num_classes": num_classes,
            "train_per_class": train_per_class,
            "test_per_class": test_per_class,
            "picture_size": picture_size,
            "seed": seed,
        }
        if (root / ARGUMENTS_FILE).is_file():
            drawn = json.loads((root / ARGUMENTS_FILE).read_text(encoding="utf-8"))
            for name, wanted in (*arguments.items(), ("edition", EDITION)):
                found = drawn.get(name)
                if found != wanted:
                    raise FileExistsError(
                        f"Expected {root} to hold birds drawn with {name}={wanted}, but it holds "
                        f"birds drawn with {name}={found}. Name another folder."
                    )
        else:
            write_synthetic_birds(root, **arguments, progress=progress)
        super().__init__(root, split)
