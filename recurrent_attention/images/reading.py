"""Reading pictures: what a file, a PIL image or an array holds becomes upright 8-bit pixels."""

import importlib
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from PIL import ExifTags, Image, UnidentifiedImageError

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file, kind_of
from recurrent_attention.images.levels import eight_bits, levels_of

Mode = Literal["L", "RGB", "RGBA"]
# A file says by its content which decoder it wants. Only these are tried: Pillow has some forty,
# and that for PostScript starts an interpreter. HEIF is there once a package registers it.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF")
_LOADED_FORMATS = (*PICTURE_FORMATS, "MPO")  # what Pillow calls a JPEG of several pictures
# What an EXIF orientation asks for; 1 is upright. `PIL.ImageOps.exif_transpose` also writes other
# tags anew: in Pillow 13.0 it raised on 57 of 14,110 pictures that are whole but for such a tag.
_TURNS = {
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
_PLUGINS = {"JPEG": "Jpeg", "WEBP": "WebP"}  # named otherwise than their formats


def open_picture(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image,
    *,
    name: str | None = None,
    reduction: int = 1,
    mode: Mode = "RGB",
) -> Image.Image:
    """Read a picture, upright (EXIF orientation applied), with 8 bits a channel.

    Only files of `PICTURE_FORMATS` are read, whatever their names say, and decoders of other
    formats are not tried. Gray levels of more than 8 bits are scaled: by the range that a TIFF file
    declares, else by the 16 bits that it has. Transparent pixels become white where `mode` has no
    alpha. An animation shows its first frame. An open file is read whole, from its beginning, and
    keeps its position where it has one.

    Args:
        source: a path, a file opened in binary mode, or a PIL image, which stays as it is.
        name: what to call the source in a message, beside its path.
        reduction: 2, 4 or 8 lets JPEG files be decoded at that fraction of their sides, rounded up,
            which takes a half to a fifth of the time (libjpeg leaves out the finest frequencies).
            Other formats, and 1, are decoded whole.
        mode: "RGB", "L" for gray, or "RGBA".

    Returns:
        A picture of that mode, decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no picture of these formats, is cut off, is larger than Pillow
            allows, or holds numbers without a declared range (floating point, 32 bits).

    Warns:
        RangeWarning: if a picture of 16 bits has no level above 4095, and so looks black.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("LA", (4, 3), (90, 0)).save(file, "png")
        >>> open_picture(file).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        with _one_sentence(f"in {name or 'the PIL image'}"):
            if getattr(source, "tile", None) and source.format not in _LOADED_FORMATS:
                raise ValueError(f"a file of the format {source.format} that is not decoded yet")
            return _upright(source, mode)
    if isinstance(source, str | os.PathLike):
        with _open(source, name) as picture:
            return _decoded(picture, reduction, mode)
    with (
        _one_sentence(f"in {name or 'the open file'}"),
        _rewindable(source) as file,
        _identify(file) as picture,
    ):
        return _decoded(picture, reduction, mode)


def picture_size(
    source: str | os.PathLike[str] | IO[bytes], *, name: str | None = None
) -> tuple[int, int]:
    """Read width and height of the upright picture from the file's header, without decoding it.

    Args:
        source: a path, or a file opened in binary mode, which stays where it is.
        name: what to call the source in a message, beside its path.

    Returns:
        (width, height) in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no picture.
    """
    if isinstance(source, str | os.PathLike):
        with _open(source, name) as picture:
            return _upright_size(picture)
    with (
        _one_sentence(f"in {name or 'the open file'}"),
        _rewindable(source) as file,
        _identify(file) as picture,
    ):
        return _upright_size(picture)


def picture_suffixes() -> frozenset[str]:
    """Return the suffixes that files of `PICTURE_FORMATS` have, in lower case, as ".jpg".

    Suffixes that were registered with Pillow for one of these formats are among them, such as
    ".heic" after `pillow_heif.register_heif_opener()`.
    """
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, form in known if form in _LOADED_FORMATS)


@contextmanager
def _open(path: str | os.PathLike[str], name: str | None = None) -> Iterator[Image.Image]:
    path = path if isinstance(path, Path) else Path(path)
    if (kind := kind_of(path)) != "a file":
        hints = {"a folder": "Pass the files in it.", "nothing": ""}
        hint = hints.get(kind, "Replace or remove the file.")
        check_regular_file(path, "a picture", hint, name=name or "")
    where = f"at {printable(os.fspath(path))}" + (f" ({name})" if name else "")
    with (
        _one_sentence(where, " Replace or remove the file."),
        path.open("rb") as file,
        _identify(file) as picture,
    ):
        yield picture


@contextmanager
def _one_sentence(where: str, hint: str = "") -> Iterator[None]:
    """Say in one sentence what could not be read."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a picture {where}, but there is no file.") from None
    except _UNREADABLE as error:
        reason = printable(str(error) or type(error).__name__).rstrip(".")
        raise ValueError(unreadable(where, reason) + hint) from error


def unreadable(where: str, reason: str) -> str:
    """Say in a sentence that a picture cannot be read.

    Args:
        where: it is, as in "at bird.jpg".
        reason: what is wrong with it, without a full stop.

    Returns:
        The sentence.
    """
    return f"Expected a readable picture {where}, but got: {reason}."


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
    for form in PICTURE_FORMATS:
        if form not in Image.OPEN and form != "HEIF":
            with suppress(ImportError):  # a Pillow that was built without it
                importlib.import_module(f"PIL.{_PLUGINS.get(form, form.capitalize())}ImagePlugin")
    formats = [form for form in PICTURE_FORMATS if form in Image.OPEN]
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        file.seek(0)
        known = f"data in none of the formats {', '.join(PICTURE_FORMATS)}"
        raise ValueError(known if file.read(1) else "an empty file") from None


def _decoded(picture: Image.Image, reduction: int, mode: Mode) -> Image.Image:
    """Decode a picture that was just opened and belongs to nobody else."""
    if reduction > 1:
        smaller = max(1, picture.width // reduction), max(1, picture.height // reduction)
        picture.draft("RGB", smaller)
    return _upright(picture, mode, copy=False)


def _upright(picture: Image.Image, mode: Mode, *, copy: bool = True) -> Image.Image:
    """Turn a picture upright and bring it to a mode.

    Args:
        picture: of any mode.
        mode: that it shall have.
        copy: False if nobody else has the picture: where nothing has to change, it is returned
            itself, which saves the copy.

    Returns:
        The upright picture, decoded and without metadata.
    """
    picture.load()  # of a TIFF file this turns it, so ask for the orientation afterwards
    turn = _TURNS.get(_orientation(picture))
    ready = picture.mode == mode and "transparency" not in picture.info and turn is None
    if ready and not copy:
        found = picture
    else:
        white = levels_of(picture) if picture.mode[0] in "IF" else None
        found = _in_mode(picture if turn is None else picture.transpose(turn), mode, white)
    found.info = {}  # it holds the old orientation, which a second reader would apply again
    return found


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    # Orientations 5 to 8 swap the axes; of a TIFF file Pillow returns the upright size itself.
    turned = picture.format != "TIFF" and _orientation(picture) >= 5
    return (height, width) if turned else (width, height)


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _UNREADABLE:  # damaged EXIF data turn nothing; the picture itself may be whole
        return 1
    return orientation if isinstance(orientation, int) else 1


def _in_mode(picture: Image.Image, mode: Mode, levels: tuple[float, float] | None) -> Image.Image:
    """Convert a copy; what is transparent becomes white without alpha, as a viewer shows it."""
    if levels is not None:
        picture = eight_bits(picture, *levels)
    palette = picture.palette if picture.mode == "P" else None
    if mode != "RGBA" and (
        picture.mode in ("RGBA", "RGBa", "LA", "PA")
        or "transparency" in picture.info
        or (palette is not None and palette.mode == "RGBA")
    ):
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture).convert("RGB")
    elif picture.mode == "CMYK":  # to gray and to RGBA Pillow has no way of its own
        picture = picture.convert("RGB")
    return picture.convert(mode)
