"""Writes a data set of drawn birds in the official layout of CUB-200-2011.

The classes differ in one small part only (`MARKS`), so that a view of the whole picture at a low
resolution has a hard time, and a view of a patch at the full one has an easier one.

References:
    Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, for the layout.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from drawn_birds.drawing import MARKS, Drawing, Mark, draw_bird
from recurrent_attention.data import CUB200

# CUB-200-2011's fifteen parts in its own order; a part's id is its place, from 1.
PART_NAMES = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing",
    "nape", "right eye", "right leg", "right wing", "tail", "throat",
)  # fmt: skip
_PATCH_SIDE = 448  # side of the squeezed picture in whose pixels the authors' patch boxes are given
# Width to height of a picture, the usual ones of photographs.
_SHAPES = ((4, 3), (4, 3), (3, 2), (5, 4), (3, 4), (4, 5))
# Shortest allowed longer side: below it a small bird's mark is less than two pixels.
_SMALLEST_PICTURE = 64
_EPITHETS = {
    "bill": "billed", "eye_ring": "eye_ringed", "wing_bar": "wing_barred", "crown": "crowned",
    "tail_band": "tail_banded",
}  # fmt: skip


# Keeps what a folder was drawn with, so that no other set is taken for it.
ARGUMENTS_FILE = "synthetic.json"
EDITION = 2  # of the drawings: raised when the same arguments give other pictures


class _Sheet(NamedTuple):
    """One picture of the data set: where it lies and how it is drawn."""

    class_index: int
    is_train: bool
    path: str
    stream: str


def class_name(class_index: int) -> str:
    """Return the name of a drawn class in the official style."""
    mark = MARKS[class_index]
    return f"{class_index + 1:03d}.{mark.colour_name.capitalize()}_{_EPITHETS[mark.part]}_Finch"


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
                if drawn.get(name) != wanted:
                    raise FileExistsError(
                        f"Expected {root} to hold birds drawn with {name}={wanted}, but it holds "
                        f"birds drawn with {name}={drawn.get(name)}. Name another folder."
                    )
        else:
            write_synthetic_birds(root, **arguments, progress=progress)
        super().__init__(root, split)


def write_synthetic_birds(
    root: Path,
    *,
    num_classes: int = 10,
    train_per_class: int,
    test_per_class: int,
    picture_size: int = 256,
    boxes_per_picture: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Write drawn birds and their annotations in the official layout of CUB-200-2011.

    `patches/train_patches.npy` and `patches/test_patches.npy` hold random boxes on the birds as the
    paper's authors write them; they do not know which part tells the class. The same arguments give
    the same bytes, and more pictures a class keep the earlier ones.
    """
    _check_count("num_classes", num_classes, 1, len(MARKS))
    _check_count("train_per_class", train_per_class, 1)
    _check_count("test_per_class", test_per_class, 1)
    _check_count("picture_size", picture_size, _SMALLEST_PICTURE)
    _check_count("boxes_per_picture", boxes_per_picture, 1)
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f"Expected `root` to be absent or an empty folder, but got {str(root)!r}, which is "
            "taken already. Name another folder, or remove this one first."
        )
    arguments = {
        "num_classes": num_classes,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "picture_size": picture_size,
        "boxes_per_picture": boxes_per_picture,
        "seed": seed,
        "edition": EDITION,
    }
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        unfinished.chmod(0o755)
        sheets = list(_plan(num_classes, train_per_class, test_per_class, seed))
        _write(unfinished, sheets, num_classes, picture_size, boxes_per_picture, progress)
        (unfinished / ARGUMENTS_FILE).write_text(json.dumps(arguments) + "\n", encoding="utf-8")
        if root.exists():
            root.rmdir()
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"between {least} and {most}"
        nearest = least if most is None or value < least else most
        raise ValueError(f"Expected `{name}` to be {span}, but got {value}. Pass {name}={nearest}.")


def _plan(classes: int, train: int, test: int, seed: int) -> Iterator[_Sheet]:
    """Yield the pictures, class by class, shuffled within a class as in CUB's images.txt."""
    for class_index in range(classes):
        folder = class_name(class_index)
        sheets = []
        for split, count in (("train", train), ("test", test)):
            for index in range(count):
                stream = f"{seed}/{split}/{class_index}/{index}"
                # As in CUB, the first number of a file name is arbitrary, so that the two splits
                # mix in the sorted order; the second makes the name unique.
                number = random.Random(f"name/{stream}").randrange(10_000)
                unique = 2 * index + 1 + (split == "test")
                name = f"{folder[4:]}_{number:04d}_{unique}.jpg"
                sheets.append(_Sheet(class_index, split == "train", f"{folder}/{name}", stream))
        random.Random(f"order/{seed}/{class_index}").shuffle(sheets)
        yield from sheets


def _write(
    root: Path,
    sheets: list[_Sheet],
    classes: int,
    picture_size: int,
    boxes: int,
    progress: bool,
) -> None:
    """Draw the pictures and write them with all their annotations."""
    tables: dict[str, list[str]] = {
        name: []
        for name in (
            "images", "image_class_labels", "train_test_split", "bounding_boxes", "parts/part_locs",
        )
    }  # fmt: skip
    tables["classes"] = [f"{i + 1} {class_name(i)}" for i in range(classes)]
    tables["parts/parts"] = [f"{i} {name}" for i, name in enumerate(PART_NAMES, 1)]
    patches: dict[bool, dict[str, NDArray[np.float64]]] = {True: {}, False: {}}
    for i in range(classes):
        (root / "images" / class_name(i)).mkdir(parents=True)
    (root / "parts").mkdir()
    (root / "patches").mkdir()
    bar = tqdm(sheets, desc="Drawing birds", unit="bird", disable=not progress)
    for image_id, sheet in enumerate(bar, 1):
        drawing = _draw(sheet, MARKS[sheet.class_index], picture_size)
        drawing.image.save(root / "images" / sheet.path, quality=92)
        tables["images"].append(f"{image_id} {sheet.path}")
        tables["image_class_labels"].append(f"{image_id} {sheet.class_index + 1}")
        tables["train_test_split"].append(f"{image_id} {int(sheet.is_train)}")
        x0, y0, x1, y1 = drawing.bounding_box
        tables["bounding_boxes"].append(f"{image_id} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}")
        for part_id, name in enumerate(PART_NAMES, 1):
            x, y = drawing.parts.get(name, (0.0, 0.0))
            seen = int(name in drawing.parts)
            tables["parts/part_locs"].append(f"{image_id} {part_id} {x:.1f} {y:.1f} {seen}")
        rng = random.Random(f"boxes/{sheet.stream}")
        rows = [(*_box(drawing, rng), sheet.class_index) for _ in range(boxes)]
        patches[sheet.is_train][sheet.path] = np.array(rows, dtype=np.float64)
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    for is_train, name in ((True, "train"), (False, "test")):
        by_path = patches[is_train]
        ordered = sorted(by_path, key=lambda path: tuple(path.split("/")))
        np.save(root / "patches" / f"{name}_patches.npy", np.stack([by_path[p] for p in ordered]))


def _draw(sheet: _Sheet, mark: Mark, picture_size: int) -> Drawing:
    """Draw one picture from its own random stream."""
    rng = random.Random(sheet.stream)
    wide, high = rng.choice(_SHAPES)
    longer = max(wide, high)
    size = (round(picture_size * wide / longer), round(picture_size * high / longer))
    return draw_bird(mark, size=size, rng=rng)


def _box(drawing: Drawing, rng: random.Random) -> tuple[int, int, int, int]:
    """Return y0, y1, x0, x1 of a random window on the bird in the squeezed picture."""
    width, height = drawing.image.size
    x0, y0, x1, y1 = drawing.bounding_box
    side = rng.uniform(0.85, 1.25) * max(x1 - x0, y1 - y0)
    wide, high = side * rng.uniform(0.9, 1.1), side * rng.uniform(0.9, 1.1)
    x, y = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
    centre_x, centre_y = x0 + x * (x1 - x0), y0 + y * (y1 - y0)
    left, right = _span(centre_x, wide, _PATCH_SIDE / width)
    top, low = _span(centre_y, high, _PATCH_SIDE / height)
    return top, low, left, right


def _span(centre: float, length: float, zoom: float) -> tuple[int, int]:
    """Return the first and the last pixel border of a stretch, clipped to the squeezed picture."""
    first = max(0, round((centre - length / 2) * zoom))
    last = min(_PATCH_SIDE, round((centre + length / 2) * zoom))
    return first, last
