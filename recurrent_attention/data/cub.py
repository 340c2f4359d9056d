"""CUB-200-2011 in its official layout: the whole set, or any part of it."""

from pathlib import Path
from typing import Literal

from recurrent_attention.data.pictures import Pictures

REQUIRED_FILES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "classes.txt",
)
Box = tuple[float, float, float, float]
Point = tuple[float, float]


class CUB200(Pictures):
    """Read CUB-200-2011, or any data set in its layout.

    Rows of the text files are joined by image id, never by position. The pictures are in the order
    of (class folder, file name), as in torchvision's `ImageFolder`, which is also the order of the
    authors' patch files. Labels count from 0.

    Args:
        root: the folder that holds images.txt, or the folder above it.
        split: "train", "test", or "all" for both.

    Attributes:
        folder: the folder that holds images.txt.
        bounding_boxes: relative file name to (x0, y0, x1, y1) in pixels of the picture; empty where
            bounding_boxes.txt is absent.
        parts: relative file name to {part name: (x, y)} in pixels, visible parts only; empty where
            parts/part_locs.txt is absent.

    Raises:
        FileNotFoundError: if `root` or one of the four needed files is missing.
        ValueError: if the files do not agree with each other, or the split is unknown or empty.

    References:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
    """

    bounding_boxes: dict[str, Box]
    parts: dict[str, dict[str, Point]]

    def __init__(self, root: str | Path, split: Literal["train", "test", "all"] = "train") -> None:
        if split not in ("train", "test", "all"):
            raise ValueError(f"Expected `split` to be 'train', 'test' or 'all', but got {split!r}.")
        root = _find_root(Path(root))
        names = _read(root / "images.txt", 1)
        class_ids = _read(root / "image_class_labels.txt", 1)
        is_train = _read(root / "train_test_split.txt", 1)
        classes = _read(root / "classes.txt", 1)
        for file, rows in (
            ("image_class_labels.txt", class_ids),
            ("train_test_split.txt", is_train),
        ):
            if absent := names.keys() - rows.keys():
                raise ValueError(
                    f"Expected {root / file} to have a row for each image of images.txt, but "
                    f"{len(absent)} of {len(names)} are missing, the first with id {min(absent)}."
                )
        label_of = {class_id: label for label, class_id in enumerate(sorted(classes))}
        chosen = []
        for image_id, (name,) in names.items():
            class_id = int(class_ids[image_id][0])
            if class_id not in label_of:
                raise ValueError(
                    f"Expected {root / 'classes.txt'} to name class {class_id} of {name}, but it "
                    f"names {len(classes)} other classes."
                )
            if split == "all" or (is_train[image_id][0] == "1") == (split == "train"):
                chosen.append((tuple(name.rsplit("/", 1)), name, label_of[class_id]))
        if not chosen:
            raise ValueError(
                f"Expected {root / 'train_test_split.txt'} to mark some of the {len(names)} images "
                f"for the {split} split, but it marks none."
            )
        chosen.sort()
        super().__init__(
            root / "images",
            [name for _, name, _ in chosen],
            [label for _, _, label in chosen],
            [classes[class_id][0] for class_id in sorted(classes)],
        )
        self.folder = root
        self.bounding_boxes = _read_bounding_boxes(root, names)
        self.parts = _read_parts(root, names)


def _find_root(root: Path) -> Path:
    for candidate in (root, root / "CUB_200_2011"):
        if (candidate / "images.txt").is_file():
            root = candidate
            break
    missing = [file for file in (*REQUIRED_FILES, "images") if not (root / file).exists()]
    if missing:
        found = "no such folder"
        if root.is_dir():
            entries = sorted(entry.name for entry in root.iterdir())
            found = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") or "nothing"
        raise FileNotFoundError(
            f"Expected the layout of CUB-200-2011 in {root}, but {', '.join(missing)} is missing; "
            f"found: {found}. For a folder per class use PictureFolder."
        )
    return root


def _read(path: Path, columns: int) -> dict[int, list[str]]:
    """Read rows of `id value ...` into id -> values; the last value may hold spaces."""
    rows: dict[int, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        first, *values = line.split(maxsplit=columns)
        if not first.isdigit() or len(values) != columns:
            raise ValueError(
                f"Expected line {number} of {path} to be a number and {columns} more, but got "
                f"{line!r}."
            )
        if int(first) in rows:
            raise ValueError(
                f"Expected each id once in {path}, but {first} stands again in line {number}."
            )
        rows[int(first)] = values
    return rows


def _read_bounding_boxes(root: Path, names: dict[int, list[str]]) -> dict[str, Box]:
    path = root / "bounding_boxes.txt"
    if not path.is_file():
        return {}
    boxes = {}
    for image_id, values in _read(path, 4).items():
        if image_id in names:
            x, y, width, height = map(float, values)
            boxes[names[image_id][0]] = (x, y, x + width, y + height)
    return boxes


def _read_parts(root: Path, names: dict[int, list[str]]) -> dict[str, dict[str, Point]]:
    locations, part_names = root / "parts" / "part_locs.txt", root / "parts" / "parts.txt"
    if not (locations.is_file() and part_names.is_file()):
        return {}
    name_of_part = _read(part_names, 1)
    parts: dict[str, dict[str, Point]] = {}
    for line in locations.read_text(encoding="utf-8").splitlines():
        image_id, part_id, x, y, visible = line.split()
        if visible == "1" and int(image_id) in names:
            name = names[int(image_id)][0]
            parts.setdefault(name, {})[name_of_part[int(part_id)][0]] = (float(x), float(y))
    return parts
