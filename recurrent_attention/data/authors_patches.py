"""The files of boxes that the paper's authors published, such as `train_patches.npy`."""

import tokenize
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_regular_file
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.ops.boxes import check_boxes

_NO_ARRAY = (  # what NumPy was seen to raise on damaged files, and kin
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    TypeError,
    KeyError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
AUTHORS_PICTURE_SIDE = 448  # their boxes are in pixels of the whole picture resized to this square


def read_patch_file(path: str | Path, pictures: Pictures) -> dict[str, Tensor]:
    """Read a patch file in the format of the paper's authors (`train_patches.npy`).

    The file holds float64 (n, p, 5): the n pictures of one split in the order of sorted class
    folders and sorted file names, each with p rows `[y0, y1, x0, x1, label]` in pixels of the whole
    picture resized to 448 x 448. The order of `pictures` does not matter.

    Args:
        path: of the .npy file.
        pictures: the split it belongs to, whole.

    Returns:
        Relative file name to boxes (p 4), best first, xyxy in pixels of the picture on disk.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is no such array, does not fit the split, or holds an empty box.
    """
    path = Path(path)
    check_regular_file(path, "a patch file")
    table = _read_table(path)
    if len(table) != len(pictures):
        raise ValueError(
            f"Expected {printable(path)} to hold boxes for the {len(pictures)} pictures of this "
            f"split, but got {len(table)}. Use the file of the same split and of the whole split."
        )
    order = sorted(range(len(pictures)), key=lambda i: tuple(pictures.names[i].rsplit("/", 1)))
    _check_labels(path, table, [pictures.labels[i] for i in order])
    boxes = {}
    for row, index in zip(table, order, strict=True):
        width, height = pictures.size(index)
        y0, y1, x0, x1 = torch.from_numpy(row[:, :4]).float().unbind(1)
        scale = torch.tensor([width, height] * 2, device="cpu") / AUTHORS_PICTURE_SIDE
        boxes[pictures.names[index]] = torch.stack([x0, y0, x1, y1], dim=1) * scale
        check_boxes(boxes[pictures.names[index]], (width, height), pictures.names[index])
    return boxes


def find_patch_files(folder: str | Path) -> tuple[Path, Path]:
    """Find the authors' two files in a folder.

    Args:
        folder: that holds train_patches.npy and test_patches.npy.

    Returns:
        The two paths.

    Raises:
        FileNotFoundError: if one of them is missing.
    """
    paths = Path(folder) / "train_patches.npy", Path(folder) / "test_patches.npy"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected train_patches.npy and test_patches.npy in {printable(folder)}, but "
                f"{path.name} is missing."
            )
    return paths


def _read_table(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Read rows [y0, y1, x0, x1, label] in shape (pictures, boxes, 5)."""
    try:
        with path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                raise ValueError("no array in its format")  # np.load would try zip and pickle
        # Mapped, so that a header that claims too much is refused before memory is asked for.
        with np.errstate(over="raise"):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NO_ARRAY as error:
        sentence = f"Expected {printable(path)} to be a NumPy array file, but got: "
        raise ValueError(f"{sentence}{first_line(error)}.") from error
    if mapped.ndim != 3 or mapped.shape[1] == 0 or mapped.shape[2] != 5:
        raise ValueError(
            f"Expected {printable(path)} to hold rows [y0, y1, x0, x1, label] in shape (pictures, "
            f"boxes, 5), but got {mapped.shape}."
        )
    if mapped.dtype.kind not in "fiu":
        raise ValueError(f"Expected {printable(path)} to hold numbers, but got {mapped.dtype}.")
    return np.array(mapped, dtype=np.float64)


def _check_labels(
    path: Path, table: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", labels: list[int]
) -> None:
    """Compare the class columns up to their numbering: a wrong split shows here."""
    theirs = table[:, 0, 4]
    pairs = set(zip(theirs.tolist(), labels, strict=True))
    if len(pairs) != len(set(labels)) or len(pairs) != len(set(theirs.tolist())):
        raise ValueError(
            f"Expected the label column of {printable(path)} to agree with the classes of its "
            f"pictures, but {len(pairs)} pairs stand for {len(set(labels))} classes. Is it another "
            "split?"
        )
