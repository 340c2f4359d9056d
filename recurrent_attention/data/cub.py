"""CUB-200-2011 in its official layout: the whole set, or any part of it."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file
from recurrent_attention.data._fetching.download import RemoteFile
from recurrent_attention.data._fetching.fetch import check_split, check_whole, fetch, find_folder
from recurrent_attention.data.pictures import Pictures

# Record 65de6-vp158 of CaltechDATA, with the size and the MD5 sum given there.
ARCHIVE = RemoteFile(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
    size=1_150_585_339,
    md5="97eceeb196236b17998738112f37df78",
)
FOLDER = "CUB_200_2011"
REQUIRED_FILES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "classes.txt",
)
ID = re.compile("[0-9]{1,9}")
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
        download: if neither folder is there, download CUB_200_2011.tgz (1.15 GB) from CaltechDATA
            into `root` and unpack it into `root/CUB_200_2011`. A download that broke off goes on,
            size and MD5 sum are checked, and the folder is there whole or not at all; the archive
            stays. The data set is for non-commercial research and teaching.
        progress: show bars while downloading.

    Attributes:
        folder: the folder that holds images.txt.
        bounding_boxes: relative file name to (x0, y0, x1, y1) in pixels of the picture; empty where
            bounding_boxes.txt is absent.
        parts: relative file name to {part name: (x, y)} in pixels, visible parts only; empty where
            parts/part_locs.txt is absent.

    Raises:
        FileNotFoundError: if `root` or one of the four needed files is missing; with `download`
            also if pictures are missing from a folder that is there.
        ValueError: if the files do not agree with each other, or the split is unknown or empty; or
            if the archive is not the official one.
        ConnectionError: if the archive cannot be downloaded.

    References:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
    """

    bounding_boxes: dict[str, Box]
    parts: dict[str, dict[str, Point]]

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test", "all"] = "train",
        *,
        download: bool = False,
        progress: bool = True,
    ) -> None:
        check_split(split)
        root = Path(root)
        if download and not (root / "images.txt").is_file():
            fetch(root / FOLDER, [ARCHIVE], strip=FOLDER, progress=progress)
        root = find_folder(root, FOLDER, (*REQUIRED_FILES, "images"), "CUB-200-2011")
        names = {image_id: name for image_id, (name,) in _read(root / "images.txt", 1).items()}
        class_ids = _read_classes(root / "image_class_labels.txt")
        is_train = _read(root / "train_test_split.txt", 1)
        classes = _read(root / "classes.txt", 1)
        for file, rows in (
            ("image_class_labels.txt", class_ids),
            ("train_test_split.txt", is_train),
        ):
            if absent := names.keys() - rows.keys():
                raise ValueError(
                    f"Expected {printable(root / file)} to have a row for each image of "
                    f"images.txt, but {len(absent)} of {len(names)} are missing, the first with id "
                    f"{min(absent)}."
                )
        label_of = {class_id: label for label, class_id in enumerate(sorted(classes))}
        chosen = []
        for image_id, name in names.items():
            class_id, (mark,) = class_ids[image_id], is_train[image_id]
            if mark not in ("0", "1"):
                raise ValueError(
                    f"Expected {printable(root / 'train_test_split.txt')} to mark each image with "
                    f"0 or 1, but got {mark[:200]!r} for {printable(name)}."
                )
            if class_id not in label_of:
                raise ValueError(
                    f"Expected {printable(root / 'classes.txt')} to name class {class_id} of "
                    f"{printable(name)}, but it names {len(classes)} other classes."
                )
            if split == "all" or (mark == "1") == (split == "train"):
                chosen.append((tuple(name.rsplit("/", 1)), name, label_of[class_id]))
        if not chosen:
            raise ValueError(
                f"Expected {printable(root / 'train_test_split.txt')} to mark some of the "
                f"{len(names)} images for the {split} split, but it marks none."
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
        if download:
            check_whole(root, root / "images", names.values())


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text file that hold something, and what to call each in a message."""
    check_regular_file(path, "a list")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {printable(path)} to be text in UTF-8, but got: {error}."
        ) from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"line {number} of {printable(path)}", line


def _read(path: Path, columns: int) -> dict[int, list[str]]:
    """Read rows of `id value ...` into id -> values; the last value may hold spaces."""
    rows: dict[int, list[str]] = {}
    for where, line in _lines(path):
        first, *values = line.split(maxsplit=columns)
        if not ID.fullmatch(first) or len(values) != columns:
            raise ValueError(
                f"Expected {printable(where)} to be a number and {columns} more, but got "
                f"{line[:200]!r}."
            )
        if int(first) in rows:
            raise ValueError(
                f"Expected each id once in {printable(path)}, but {first} is again in "
                f"{printable(where)}."
            )
        rows[int(first)] = values
    return rows


def _read_classes(path: Path) -> dict[int, int]:
    classes = {}
    for image_id, (class_id,) in _read(path, 1).items():
        if not ID.fullmatch(class_id):
            raise ValueError(
                f"Expected {printable(path)} to give each image the number of a class, but got "
                f"{class_id[:200]!r} for {image_id}."
            )
        classes[image_id] = int(class_id)
    return classes


def _numbers(values: Sequence[str], where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"Expected {printable(where)} to hold numbers, but got {' '.join(values)[:200]!r}."
        )
    return numbers


def _read_bounding_boxes(root: Path, names: dict[int, str]) -> dict[str, Box]:
    path = root / "bounding_boxes.txt"
    if not path.is_file():
        return {}
    boxes = {}
    for image_id, values in _read(path, 4).items():
        if image_id in names:
            x, y, width, height = _numbers(values, f"the row of {image_id} in {printable(path)}")
            boxes[names[image_id]] = (x, y, x + width, y + height)
    return boxes


def _read_parts(root: Path, names: dict[int, str]) -> dict[str, dict[str, Point]]:
    locations, part_names = root / "parts" / "part_locs.txt", root / "parts" / "parts.txt"
    if not (locations.is_file() and part_names.is_file()):
        return {}
    name_of_part = {str(part_id): name for part_id, (name,) in _read(part_names, 1).items()}
    name_of_image = {str(image_id): name for image_id, name in names.items()}
    parts: dict[str, dict[str, Point]] = {}
    for where, line in _lines(locations):
        fields = line.split()
        if len(fields) != 5 or fields[1] not in name_of_part:
            raise ValueError(
                f"Expected {printable(where)} to be an image, a part of {part_names.name}, x, y "
                f"and whether it is visible, but got {line[:200]!r}."
            )
        image_id, part_id, *place, visible = fields
        if visible == "1" and image_id in name_of_image:
            x, y = _numbers(place, where)
            parts.setdefault(name_of_image[image_id], {})[name_of_part[part_id]] = (x, y)
    return parts
