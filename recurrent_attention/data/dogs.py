"""Stanford Dogs in its official layout: the whole set, or any part of it."""

import math
from functools import cached_property
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from recurrent_attention._errors import printable
from recurrent_attention.data._fetching.download import RemoteFile
from recurrent_attention.data._fetching.fetch import check_split, check_whole, fetch, find_folder
from recurrent_attention.data._fetching.matlab import read_lists
from recurrent_attention.data.pictures import Pictures

# The page of the data set names neither sizes nor sums. Sizes: stanford_dogs.txt in the sources of
# TensorFlow Datasets. MD5 sums: two independent loaders of the data set that agree.
PLACE = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
ARCHIVES = (
    RemoteFile(PLACE + "images.tar", 793_579_520, "1bb1f2a596ae7057f99d7d75860002ef"),
    RemoteFile(PLACE + "annotation.tar", 21_852_160, "4298cc0031f6bc6e74612ac83b5988e2"),
    RemoteFile(PLACE + "lists.tar", 481_280, "edbb9f16854ec66506b5f09b583e0656"),
)
FOLDER = "stanford_dogs"  # the archives have no folder of their own
LISTS = {"train": "train_list.mat", "test": "test_list.mat"}
MAX_ANNOTATION = 2**20  # bytes; real ones have below 3,000
Box = tuple[float, float, float, float]


class StanfordDogs(Pictures):
    """Read Stanford Dogs, or any data set in its layout.

    120 breeds, 12,000 training and 8,580 test pictures, all of them from ImageNet: **a backbone
    pretrained on ImageNet has seen the test pictures with their labels**, so its accuracy here says
    little about other dogs. The pictures are in the order of (class folder, file name). Labels
    count from 0; classes have their folders' names, such as "n02085620-Chihuahua".

    Args:
        root: the folder that holds train_list.mat, or the folder above a folder `stanford_dogs`.
        split: "train", "test", or "all" for both.
        download: if neither folder is there, download images.tar, annotation.tar and lists.tar
            (816 MB) into `root` and unpack them into `root/stanford_dogs`. A download that broke
            off goes on, sizes and MD5 sums are checked, and the folder is there whole or not at
            all; the archives stay. The server has no https; the sums vouch for the files. It
            publishes no sums: sizes are those of TensorFlow Datasets, MD5 sums those of two other
            loaders that agree.
        progress: show bars while downloading.

    Attributes:
        folder: the folder that holds train_list.mat.

    Raises:
        FileNotFoundError: if `root`, a list or the folder of the pictures is missing; with
            `download` also if pictures are missing from a folder that is there.
        ValueError: if a list is no such list or damaged, if the lists do not agree with each other,
            or the split is unknown or empty; or if an archive is not the official one.
        ConnectionError: if an archive cannot be downloaded.

    References:
        Khosla et al., "Novel Dataset for Fine-Grained Image Categorization", FGVC at CVPR 2011.
    """

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
        if download and not (root / LISTS["train"]).is_file():
            fetch(root / FOLDER, ARCHIVES, progress=progress)
        root = find_folder(root, FOLDER, (*LISTS.values(), "Images"), "Stanford Dogs")
        rows = {part: _read_list(root / file) for part, file in LISTS.items()}
        folders = _folders(root, [*rows["train"], *rows["test"]])
        label_of = {class_id: label for label, class_id in enumerate(sorted(folders))}
        chosen = sorted(
            (tuple(name.rsplit("/", 1)), name, label_of[class_id])
            for part in (LISTS if split == "all" else (split,))
            for name, class_id in rows[part]
        )
        if not chosen:
            raise ValueError(
                f"Expected {printable(root / LISTS[split])} to name pictures, but it names none."
            )
        super().__init__(
            root / "Images",
            [name for _, name, _ in chosen],
            [label for _, _, label in chosen],
            [folders[class_id] for class_id in sorted(folders)],
        )
        self.folder = root
        if download:
            check_whole(root, self.root, [name for part in rows.values() for name, _ in part])

    @cached_property
    def bounding_boxes(self) -> dict[str, tuple[Box, ...]]:
        """Map relative file names to boxes of the dogs, (x0, y0, x1, y1) in pixels.

        Read from the folder Annotation when first asked for; empty where that folder is absent.

        Raises:
            FileNotFoundError: if a picture has no annotation.
            ValueError: if an annotation is damaged.
        """
        annotations = self.folder / "Annotation"
        if not annotations.is_dir():
            return {}
        return {name: _read_boxes(annotations / name.rsplit(".", 1)[0]) for name in self.names}


def _read_list(path: Path) -> list[tuple[str, int]]:
    """Read names and class numbers (from 1) of a list."""
    found = read_lists(path, ["file_list", "labels"])
    names, class_ids = found["file_list"], found["labels"]
    if len(names) != len(class_ids):
        raise ValueError(
            f"Expected {printable(path)} to hold a label for each name, but got {len(names)} names "
            f"and {len(class_ids)} labels."
        )
    rows = []
    for name, class_id in zip(names, class_ids, strict=True):
        if not isinstance(name, str) or "/" not in name.strip("/"):
            raise ValueError(
                f"Expected {printable(path)} to hold names CLASS/NAME.jpg, but got {name!r:.200}."
            )
        if not isinstance(class_id, float) or not class_id.is_integer() or class_id < 1:
            raise ValueError(
                f"Expected {printable(path)} to hold numbers of classes from 1, but got "
                f"{class_id!r:.200}."
            )
        rows.append((name, int(class_id)))
    return rows


def _folders(root: Path, rows: list[tuple[str, int]]) -> dict[int, str]:
    """Give the folder of each class: the class's name."""
    folders: dict[int, str] = {}
    for name, class_id in rows:
        folder = name.rsplit("/", 1)[0]
        if folders.setdefault(class_id, folder) != folder:
            raise ValueError(
                f"Expected the lists of {printable(root)} to give each class one folder, but class "
                f"{class_id} has {folders[class_id]!r:.200} and {folder!r:.200}."
            )
    if len(set(folders.values())) != len(folders):
        raise ValueError(
            f"Expected the lists of {printable(root)} to give each folder one class, but "
            f"{len(folders)} classes share {len(set(folders.values()))} folders."
        )
    return folders


def _read_boxes(path: Path) -> tuple[Box, ...]:
    """Read the boxes of one annotation; entities, with which XML can grow or reach out, are none.

    Without a document type there are no entities but the five of XML itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected an annotation at {printable(path)}, but there is none.")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_ANNOTATION + 1).decode("utf-8")
        if len(text) > MAX_ANNOTATION:
            raise ValueError("too long a text")
        if "<!DOCTYPE" in text or "\0" in text:  # zeros: UTF-16, which the parser would guess
            raise ValueError("a document type" if "<!DOCTYPE" in text else "zeros")
        boxes = []
        for box in ElementTree.fromstring(text).iter("bndbox"):
            corners = [
                float(box.findtext(side, "none")) for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            if not all(map(math.isfinite, corners)):
                raise ValueError(f"a box {corners}")
            boxes.append((corners[0], corners[1], corners[2], corners[3]))
    except (ValueError, ElementTree.ParseError) as error:
        raise ValueError(
            f"Expected {printable(path)} to be an annotation in XML, but got: {error}."
        ) from None
    return tuple(boxes)
