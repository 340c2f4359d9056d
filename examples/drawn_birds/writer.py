"""Draws a data set of birds in the layout of CUB-200-2011 (Wah et al., CNS-TR-2011-001).

The classes differ in one small part only (`MARKS`), so that a view of the whole picture at a low
resolution has a hard time, and a view of a patch at the full one has an easier one.
"""

import json
import math
import shutil
import tempfile
from collections import defaultdict, namedtuple
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from recurrent_attention.data import CUB200

from .drawing import MARKS, Drawing, draw_bird

# CUB-200-2011's fifteen parts in its own order; a part's id is its place, from 1.
PART_NAMES = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg",
              "left wing", "nape", "right eye", "right leg", "right wing", "tail",
              "throat")  # fmt: skip
ARGUMENTS_FILE = "synthetic.json"  # what a folder was drawn with: no other set is taken for it
EDITION = 2  # of the drawings: raised when the same arguments give other pictures

_PATCH_SIDE = 448  # of the squeezed picture in whose pixels the authors' patch boxes are given
_SHAPES = ((4, 3), (4, 3), (3, 2), (5, 4), (3, 4), (4, 5))  # width to height, as photographs have
_EPITHETS = {"bill": "billed", "eye_ring": "eye_ringed", "wing_bar": "wing_barred",
             "crown": "crowned", "tail_band": "tail_banded"}  # fmt: skip
# One picture of the data set: where it lies and how it is drawn.
_Sheet = namedtuple("_Sheet", "class_index is_train path stream")


class _Counts(NamedTuple):
    num_classes: int = 10
    train_per_class: int = 100
    test_per_class: int = 50
    picture_size: int = 256
    boxes_per_picture: int = 10
    seed: int = 0


class SyntheticBirds(CUB200):
    """Drawn birds whose classes differ by one small mark, in CUB's layout; drawn when first used.

    It needs no network and no file. Everything but the mark varies freely: pose, size, place, body
    colour, light, background. Boxes laid at random over each bird (`folder / "patches"`) do not
    know which part tells the class.

    Args:
        root: The folder to read, drawn first if it is absent or empty.
        split: "train", "test", or "all" for both.
        progress: Whether to show a bar while drawing.
        num_classes: How many classes, at most 10, which is the default.
        train_per_class: Training pictures of each class, 100 by default.
        test_per_class: Test pictures of each class, 50 by default.
        picture_size: Longer side of the pictures in pixels, 256 by default.
        boxes_per_picture: How many of the boxes laid at random, 10 by default.
        seed: Of everything drawn, 0 by default; the same arguments give the same files.

    Raises:
        FileExistsError: If `root` holds something else, or birds drawn with other arguments.
        ValueError: If a count is out of its range.
    """

    def __init__(
        self, root: str | Path, split: str = "train", *, progress: bool = True, **counts: int
    ) -> None:
        root = Path(root)
        if (root / ARGUMENTS_FILE).is_file():
            drawn = json.loads((root / ARGUMENTS_FILE).read_text(encoding="utf-8"))
            for name, wanted in {**_Counts(**counts)._asdict(), "edition": EDITION}.items():
                found = drawn.get(name)
                if found != wanted:
                    raise FileExistsError(
                        f"Expected {root} to hold birds drawn with {name}={wanted}, but it holds "
                        f"birds drawn with {name}={found}. Name another folder."
                    )
        else:
            write_synthetic_birds(root, progress=progress, **counts)
        super().__init__(root, split)


def class_name(class_index: int) -> str:
    """Return the name of a class, counted from 0, in the official style: 001.Red_billed_Finch."""
    mark = MARKS[class_index]
    return f"{class_index + 1:03d}.{mark.colour_name.capitalize()}_{_EPITHETS[mark.part]}_Finch"


def write_synthetic_birds(root: str | Path, *, progress: bool = True, **arguments: int) -> None:
    """Write drawn birds and their annotations into `root`, which must be absent or empty.

    The arguments are those of `SyntheticBirds`. `patches/train_patches.npy` and `test_patches.npy`
    hold random boxes on the birds in the layout of the paper's authors: float64, shape (pictures,
    boxes, 5), rows (y0, y1, x0, x1, label) in whole pixels of the picture resized to 448x448, label
    from 0, pictures sorted by class folder and file name. The same arguments give the same bytes,
    and more pictures a class keep the earlier ones.
    """
    counts = _Counts(**arguments)
    for name in counts._fields[:-1]:  # all but the seed
        value = getattr(counts, name)
        least = 64 if name == "picture_size" else 1  # below, a small mark is under two pixels
        most = len(MARKS) if name == "num_classes" else math.inf
        if not least <= value <= most:
            span = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            way_out = f"Pass {name}={min(max(value, least), most)}."
            raise ValueError(f"Expected `{name}` to be {span}, but got {value}. {way_out}")
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f"Expected `root` to be absent or an empty folder, but got {str(root)!r}, which is "
            "taken already. Name another folder, or remove this one first."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        unfinished.chmod(0o755)
        _write(unfinished, _plan(counts), counts, progress)
        drawn_with = json.dumps({**counts._asdict(), "edition": EDITION})
        (unfinished / ARGUMENTS_FILE).write_text(drawn_with + "\n", encoding="utf-8")
        if root.exists():
            root.rmdir()
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _plan(counts: _Counts) -> list[_Sheet]:
    """Return the pictures, class by class, shuffled within a class as in CUB's images.txt."""
    plan = []
    for class_index in range(counts.num_classes):
        folder, sheets = class_name(class_index), []
        for split, count in (("train", counts.train_per_class), ("test", counts.test_per_class)):
            for index in range(count):
                stream = f"{counts.seed}/{split}/{class_index}/{index}"
                # As in CUB, the first number of a file name is arbitrary, so that the two splits
                # mix in the sorted order; the second makes the name unique.
                number = Random(f"name/{stream}").randrange(10_000)
                unique = 2 * index + 1 + (split == "test")
                path = f"{folder}/{folder[4:]}_{number:04d}_{unique}.jpg"
                sheets.append(_Sheet(class_index, split == "train", path, stream))
        Random(f"order/{counts.seed}/{class_index}").shuffle(sheets)
        plan += sheets
    return plan


def _write(root: Path, sheets: list[_Sheet], counts: _Counts, progress: bool) -> None:
    """Draw the pictures and write them with all their annotations."""
    classes = [class_name(i) for i in range(counts.num_classes)]
    for folder in ("parts", "patches", *(f"images/{name}" for name in classes)):
        (root / folder).mkdir(parents=True)
    tables, patches = defaultdict(list), {}
    tables["classes"] = [f"{i} {name}" for i, name in enumerate(classes, 1)]
    tables["parts/parts"] = [f"{i} {name}" for i, name in enumerate(PART_NAMES, 1)]
    bar = tqdm(sheets, desc="Drawing birds", unit="bird", disable=not progress)
    for image_id, sheet in enumerate(bar, 1):
        rng = Random(sheet.stream)
        shape = rng.choice(_SHAPES)
        width, height = (round(counts.picture_size * side / max(shape)) for side in shape)
        drawing = draw_bird(MARKS[sheet.class_index], size=(width, height), rng=rng)
        drawing.image.save(root / "images" / sheet.path, quality=92)
        tables["images"].append(f"{image_id} {sheet.path}")
        tables["image_class_labels"].append(f"{image_id} {sheet.class_index + 1}")
        tables["train_test_split"].append(f"{image_id} {int(sheet.is_train)}")
        x0, y0, x1, y1 = drawing.bounding_box
        tables["bounding_boxes"].append(f"{image_id} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}")
        for part_id, name in enumerate(PART_NAMES, 1):
            (x, y), seen = drawing.parts.get(name, (0.0, 0.0)), int(name in drawing.parts)
            tables["parts/part_locs"].append(f"{image_id} {part_id} {x:.1f} {y:.1f} {seen}")
        rng = Random(f"boxes/{sheet.stream}")
        boxes = [_box(drawing, rng) for _ in range(counts.boxes_per_picture)]
        patches[sheet] = [(*box, sheet.class_index) for box in boxes]
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    ordered = sorted(sheets, key=lambda sheet: sheet.path.split("/"))
    for is_train, name in ((True, "train"), (False, "test")):
        rows = [patches[sheet] for sheet in ordered if sheet.is_train == is_train]
        np.save(root / "patches" / f"{name}_patches.npy", np.array(rows, dtype=np.float64))


def _box(drawing: Drawing, rng: Random) -> list[int]:
    """Return y0, y1, x0, x1 of a random window on most of the bird in the squeezed picture."""
    x0, y0, x1, y1 = drawing.bounding_box
    width, height = drawing.image.size
    side = rng.uniform(0.85, 1.25) * max(x1 - x0, y1 - y0)
    wide, high = side * rng.uniform(0.9, 1.1), side * rng.uniform(0.9, 1.1)
    x, y = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
    box = []
    for first, last, place, long, size in ((y0, y1, y, high, height), (x0, x1, x, wide, width)):
        centre, zoom = first + place * (last - first), _PATCH_SIDE / size
        box.append(max(0, round((centre - long / 2) * zoom)))
        box.append(min(_PATCH_SIDE, round((centre + long / 2) * zoom)))
    return box
