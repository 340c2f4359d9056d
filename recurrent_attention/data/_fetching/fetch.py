"""Official data sets: found on disk, or fetched from their official places."""

from collections.abc import Collection, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from recurrent_attention._errors import printable
from recurrent_attention.data._fetching.archive import unpack
from recurrent_attention.data._fetching.download import RemoteFile, download


def fetch(
    folder: Path, files: Sequence[RemoteFile], *, strip: str = "", progress: bool = True
) -> None:
    """Download archives beside `folder` and unpack them into it, unless it is there.

    The archives stay; an archive that is there already, with the right size and MD5 sum, is not
    downloaded. Other processes that want the same folder wait until it is there.

    Args:
        folder: what to make.
        files: the archives.
        strip: a folder of the archives whose contents go right into `folder`.
        progress: show bars.

    Raises:
        ConnectionError: if a server cannot be reached, or sends another file.
        ValueError: if an archive on disk is another one, or holds what is not taken.
        OSError: if the disk is full, or cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))  # the system frees it after a kill
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            tqdm.write(f"Waiting for another process that downloads to {printable(folder)}.")
        lock.acquire()
    try:
        if not folder.exists():
            archives = [download(file, folder.parent, progress=progress) for file in files]
            unpack(archives, folder, strip=strip, progress=progress)
    finally:
        lock.release()


def check_split(split: str) -> None:
    """Refuse the name of a part that official data sets do not have."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"Expected `split` to be 'train', 'test' or 'all', but got {split!r}.")


def find_folder(root: Path, folder: str, needed: Sequence[str], layout: str) -> Path:
    """Find the folder of a data set: `root`, or the one of its usual name in it.

    Args:
        root: where to look.
        folder: the usual name.
        needed: files and folders that must be there; the first tells the folder.
        layout: the data set's name, for the message.

    Returns:
        The folder that holds what is needed.

    Raises:
        FileNotFoundError: if something is missing.
    """
    if not (root / needed[0]).is_file() and (root / folder).is_dir():
        root = root / folder
    missing = [name for name in needed if not (root / name).exists()]
    if missing:
        found = "no such folder"
        if root.is_dir():
            entries = sorted(entry.name for entry in root.iterdir())
            found = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") or "nothing"
        raise FileNotFoundError(
            f"Expected the layout of {layout} in {printable(root)}, but {', '.join(missing)} is "
            f"missing; found: {printable(found)}. For a folder per class use PictureFolder."
        )
    return root


def check_whole(folder: Path, pictures: Path, names: Collection[str]) -> None:
    """Make sure that a data set whose download was wished has all its pictures.

    Args:
        folder: of the data set.
        pictures: the folder that the names are relative to.
        names: of the pictures that its lists name.

    Raises:
        FileNotFoundError: if some are missing.
    """
    missing = [name for name in names if not (pictures / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {printable(folder)} to hold the {len(names)} pictures that its lists name, "
            f"but {len(missing)} are missing, the first {printable(missing[0])}. Remove or rename "
            "the folder and call again."
        )
