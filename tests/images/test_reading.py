"""Reading pictures: every mode and format as upright RGB, and one sentence for what is none."""

import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recurrent_attention.images import open_picture
from recurrent_attention.images.levels import RangeWarning
from recurrent_attention.images.reading import (
    PICTURE_FORMATS,
    picture_size,
    picture_suffixes,
)

WIDTH, HEIGHT = 6, 5
UNKNOWN = "data in none of the formats JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, AVIF, HEIF"


def said(caught):
    """The sentence, without the count that depends on where Pillow gave up."""
    return re.sub(r"\d+ bytes not", "some bytes not", str(caught.value))


def encoded(picture, form="png", **kwargs):
    file = io.BytesIO()
    picture.save(file, form, **kwargs)
    return file.getvalue()


def levels(channels, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def over_white(rgb, alpha):
    """Each channel of a pixel over white paper, rounded as Pillow does or by one more."""
    return [round((c * alpha + 255 * (255 - alpha)) / 255) for c in rgb]


def pictures():
    """Name, encoded picture, and the RGB that a slow loop over its pixels gives."""
    gray = levels(1)
    yield "gray", encoded(Image.fromarray(gray)), [[[v] * 3 for v in row] for row in gray.tolist()]

    bits = levels(1) > 127
    yield "bits", encoded(Image.fromarray(bits)), [[[255 * v] * 3 for v in row] for row in bits]

    deep = levels(1, np.uint16)
    wanted = [[[round(v / 257)] * 3 for v in row] for row in deep.tolist()]
    yield "16 bits, png", encoded(Image.fromarray(deep)), wanted
    yield "16 bits, tiff", encoded(Image.fromarray(deep), "tiff"), wanted
    wide = Image.fromarray(deep.astype(np.int32))
    assert wide.mode == "I"
    yield "32 bits, declared", encoded(wide, "tiff", tiffinfo={340: 0, 341: 65535}), wanted
    clear = int(deep[2, 3])
    hole = [row[:] for row in wanted]
    hole[2][3] = [255] * 3
    yield "16 bits, transparent level", encoded(Image.fromarray(deep), transparency=clear), hole

    colors = levels(3, seed=1).reshape(-1, 3)
    palette = Image.new("P", (WIDTH, HEIGHT))
    palette.putdata(list(range(WIDTH * HEIGHT)))
    palette.putpalette(colors.flatten().tolist())
    wanted = colors.reshape(HEIGHT, WIDTH, 3).tolist()
    yield "palette", encoded(palette), wanted
    yield "palette, gif", encoded(palette, "gif"), wanted
    others = [palette.rotate(180), palette.rotate(180)]
    animation = encoded(palette, "gif", save_all=True, append_images=others)
    yield "animated gif", animation, wanted
    hole = [row[:] for row in wanted]
    hole[1][2] = [255] * 3
    yield "palette, transparent colour", encoded(palette, transparency=WIDTH + 2), hole

    rgba = levels(4)
    wanted = [[over_white(pixel[:3], pixel[3]) for pixel in row] for row in rgba.tolist()]
    yield "alpha", encoded(Image.fromarray(rgba)), wanted
    faint = levels(2)
    wanted = [[over_white(pixel[:1] * 3, pixel[1]) for pixel in row] for row in faint.tolist()]
    yield "gray with alpha", encoded(Image.fromarray(faint, "LA")), wanted

    inks = levels(4, seed=2)
    wanted = [
        [[round((255 - ink) * (255 - pixel[3]) / 255) for ink in pixel[:3]] for pixel in row]
        for row in inks.tolist()
    ]
    yield "inks", encoded(Image.fromarray(inks, "CMYK"), "tiff"), wanted


@pytest.mark.parametrize(
    ("data", "wanted"), [pytest.param(d, w, id=name) for name, d, w in pictures()]
)
def test_every_picture_becomes_the_rgb_that_one_sees(tmp_path, data, wanted):
    path = tmp_path / "picture"
    path.write_bytes(data)
    unread = Image.open(path)
    for source in (path, str(path), io.BytesIO(data), unread):
        found = open_picture(source)
        assert found.mode == "RGB"
        difference = np.abs(np.asarray(found).astype(int) - np.array(wanted))
        assert difference.max() <= 1  # Pillow rounds in integers


def test_palettes_with_alpha():
    colors = levels(4).reshape(-1, 4)
    wanted = np.array([over_white(c[:3], c[3]) for c in colors.tolist()]).reshape(HEIGHT, WIDTH, 3)
    palette = Image.new("P", (WIDTH, HEIGHT))
    palette.putdata(list(range(WIDTH * HEIGHT)))
    palette.putpalette(colors.flatten().tolist(), "RGBA")
    assert np.abs(np.asarray(open_picture(palette)).astype(int) - wanted).max() <= 1
    palette.putpalette(colors[:, :3].flatten().tolist())
    palette = palette.convert("PA")
    palette.putalpha(Image.fromarray(colors[:, 3].reshape(HEIGHT, WIDTH)))
    assert palette.mode == "PA"
    assert np.abs(np.asarray(open_picture(palette)).astype(int) - wanted).max() <= 1


def turned(pixels, orientation):
    """Loop over where the EXIF standard says that each stored pixel belongs."""
    height, width = len(pixels), len(pixels[0])
    if orientation >= 5:
        upright = [[None] * height for _ in range(width)]
    else:
        upright = [[None] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            row, column = {
                1: (y, x),
                2: (y, width - 1 - x),
                3: (height - 1 - y, width - 1 - x),
                4: (height - 1 - y, x),
                5: (x, y),
                6: (x, height - 1 - y),
                7: (width - 1 - x, height - 1 - y),
                8: (width - 1 - x, y),
            }[orientation]
            upright[row][column] = pixels[y][x]
    return upright


@pytest.mark.parametrize("form", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_once(tmp_path, form, orientation):
    pixels = levels(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture"
    lossless = {"lossless": True} if form == "webp" else {}
    path.write_bytes(encoded(Image.fromarray(pixels), form, exif=exif, **lossless))
    found = open_picture(path)
    assert np.asarray(found).tolist() == turned(pixels.tolist(), orientation)
    assert picture_size(path) == found.size
    assert np.array_equal(open_picture(found), found)  # it is not turned again
    with Image.open(path) as unread:
        assert np.array_equal(open_picture(unread), found)


def test_damaged_exif_data_turn_nothing():
    data = encoded(Image.fromarray(levels(3)), exif=b"Exif\0\0no EXIF data")
    with pytest.raises(SyntaxError):
        Image.open(io.BytesIO(data)).getexif()
    assert np.array_equal(open_picture(io.BytesIO(data)), levels(3))


def test_sources_stay_as_they_are():
    picture = Image.fromarray(levels(4))
    picture.info["note"] = "mine"
    before = picture.tobytes()
    open_picture(picture)
    assert (picture.mode, picture.info, picture.tobytes()) == ("RGBA", {"note": "mine"}, before)
    opaque = Image.fromarray(levels(3))
    open_picture(opaque).putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(opaque, levels(3))
    file = io.BytesIO(encoded(picture))
    file.seek(7)
    open_picture(file)
    assert file.tell() == 7
    text = io.BytesIO(b"no picture")
    text.seek(4)
    with pytest.raises(ValueError, match="in none of the formats JPEG"):
        open_picture(text)
    assert text.tell() == 4


def test_a_stream_without_a_position():
    class Download:
        def __init__(self, data):
            self.read = io.BytesIO(data).read

    found = open_picture(Download(encoded(Image.fromarray(levels(3)))))
    assert np.array_equal(found, levels(3))
    with pytest.raises(ValueError) as caught:
        open_picture(Download(b"no picture"))
    assert str(caught.value) == (
        f"Expected a readable picture in the open file, but got: {UNKNOWN}."
    )


def bad_files(folder):
    whole = encoded(Image.fromarray(levels(3).repeat(16, 0).repeat(16, 1)), "jpeg")
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes(whole[:-50])
    (folder / "large.png").write_bytes(encoded(Image.new("1", (300, 200))))
    (folder / "folder.jpg").mkdir()


READABLE = "Expected a readable picture at {}, but got: "
REPLACE = " Replace or remove the file."
SENTENCES = [
    ("text.jpg", ValueError, READABLE + UNKNOWN + "." + REPLACE),
    ("empty.jpg", ValueError, READABLE + "an empty file." + REPLACE),
    (
        "cut.jpg",
        ValueError,
        READABLE + "image file is truncated (some bytes not processed)." + REPLACE,
    ),
    (
        "large.png",
        ValueError,
        READABLE + "Image size (60000 pixels) exceeds limit of 20000 pixels, could be "
        "decompression bomb DOS attack." + REPLACE,
    ),
    (
        "folder.jpg",
        ValueError,
        "Expected a picture at {}, but it is a folder. Pass the files in it.",
    ),
    ("gone.jpg", FileNotFoundError, "Expected a picture at {}, but there is no file."),
]


@pytest.mark.parametrize(("file", "error", "sentence"), SENTENCES)
def test_one_sentence_for_what_is_no_picture(tmp_path, monkeypatch, file, error, sentence):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # twice as many are refused
    bad_files(tmp_path)
    path = tmp_path / file
    with pytest.raises(error) as caught:
        open_picture(path)
    assert said(caught) == sentence.format(path)
    with pytest.raises(error) as caught:
        open_picture(path, name="`image[3]`")
    assert said(caught) == sentence.format(f"{path} (`image[3]`)")
    if not file.startswith("cut"):  # its header is whole
        with pytest.raises(error) as caught:
            picture_size(path)
        assert said(caught) == sentence.format(path)


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def forbidden(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    path = tmp_path / "a.jpg"
    with pytest.raises(ValueError) as caught:
        open_picture(path)
    denied = f"[Errno 13] Permission denied: '{path}'"
    assert said(caught) == READABLE.format(path) + denied + "." + REPLACE


def test_one_sentence_for_open_files_and_pil_images(tmp_path):
    bad_files(tmp_path)
    closed = io.BytesIO()
    closed.close()
    for source, sentence in (
        (
            io.BytesIO(),
            "Expected a readable picture in the open file, but got: an empty file.",
        ),
        (
            closed,
            "Expected a readable picture in the open file, but got: I/O operation on closed file.",
        ),
        (
            Image.open(tmp_path / "cut.jpg"),
            "Expected a readable picture in the PIL image, but got: image file is truncated (some "
            "bytes not processed).",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            open_picture(source)
        assert said(caught) == sentence


def test_a_file_does_not_choose_its_decoder(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for a PostScript file, whatever the file is called."""
    started = tmp_path / "started"
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch '{started}'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    path = tmp_path / "bird.jpg"
    path.write_bytes(page)
    for read in (open_picture, picture_size):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert said(caught) == READABLE.format(path) + UNKNOWN + "." + REPLACE
    with pytest.raises(ValueError) as caught:
        open_picture(io.BytesIO(page))
    assert said(caught) == f"Expected a readable picture in the open file, but got: {UNKNOWN}."
    with Image.open(path) as unread, pytest.raises(ValueError) as caught:
        open_picture(unread)
    assert said(caught) == (
        "Expected a readable picture in the PIL image, but got: a file of the format EPS that is "
        "not decoded yet."
    )
    assert not started.exists()
    assert set(PICTURE_FORMATS) <= {*Image.OPEN, "HEIF", "AVIF"}


def test_other_formats_are_not_even_tried(tmp_path, monkeypatch):
    tried = []
    Image.init()
    for form, (factory, accept) in list(Image.OPEN.items()):
        spy = lambda prefix, form=form: tried.append(form) or False  # noqa: E731
        monkeypatch.setitem(Image.OPEN, form, (factory, spy if accept else None))
    with pytest.raises(ValueError, match="in none of the formats"):
        open_picture(io.BytesIO(b"8BPS no picture"))
    assert set(tried) <= set(PICTURE_FORMATS)
    assert tried


@pytest.mark.skipif(os.name != "posix", reason="pipes lie in folders on POSIX alone")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    path = tmp_path / "x.jpg"
    os.mkfifo(path)
    for read in (open_picture, picture_size):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert said(caught) == f"Expected a picture at {path}, but it is a pipe.{REPLACE}"


def test_suffixes_are_those_of_the_formats_and_of_what_was_registered(monkeypatch):
    assert {".jpg", ".jfif", ".png", ".gif", ".webp", ".tif", ".bmp", ".pgm"} <= picture_suffixes()
    assert not {".eps", ".ps", ".psd", ".ico", ".pdf", ".txt"} & picture_suffixes()
    monkeypatch.setitem(Image.EXTENSION, ".heicx", "PNG")
    assert ".heicx" in picture_suffixes()


RAMP = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
WANTED = np.rint(RAMP.astype(float) * 255)


@pytest.mark.parametrize(
    ("levels_of", "tags"),
    [
        pytest.param(RAMP, {340: 0.0, 341: 1.0}, id="floating point"),
        pytest.param(RAMP * 4 - 2, {340: -2.0, 341: 2.0}, id="below zero"),
        pytest.param((RAMP * 2e9).astype(np.int32), {340: 0, 341: 2_000_000_000}, id="32 bits"),
        pytest.param((RAMP * 4095).astype(np.uint16), {281: 4095}, id="12 of 16 bits"),
        pytest.param((RAMP * 1000).astype(np.uint16), {340: 0, 341: 1000}, id="a range of 16 bits"),
        pytest.param((RAMP * 65535).astype(np.uint16), {281: 60_000}, id="the largest that occurs"),
    ],
)
def test_levels_are_scaled_by_the_range_that_the_file_declares(tmp_path, levels_of, tags):
    path = tmp_path / "x.tif"
    Image.fromarray(levels_of).save(path, tiffinfo=tags)
    found = np.asarray(open_picture(path, mode="L")).astype(int)
    assert np.abs(found - WANTED).max() <= 1


@pytest.mark.parametrize(
    ("levels_of", "kind"),
    [
        (RAMP, "floating-point numbers"),
        (RAMP * 65535, "floating-point numbers"),
        ((RAMP * 255).astype(np.int32), "numbers of 32 bits"),
    ],
)
def test_levels_without_a_range_are_refused(tmp_path, levels_of, kind):
    path = tmp_path / "x.tif"
    Image.fromarray(levels_of).save(path)
    reason = (
        f"{kind} that declare no range. Pass a `loader` that scales it: Pictures(..., loader=...), "
        "or an array."
    )
    with pytest.raises(ValueError) as caught:
        open_picture(path)
    assert said(caught) == READABLE.format(path) + reason + REPLACE
    with pytest.raises(ValueError) as caught:
        open_picture(Image.fromarray(levels_of))
    assert said(caught) == f"Expected a readable picture in the PIL image, but got: {reason}"


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP)).save(path, tiffinfo={340: 0.0, 341: 1.0})
    with pytest.raises(ValueError, match="but got: numbers that are NaN or infinite"):
        open_picture(path)


def test_twelve_bits_in_sixteen_that_say_nothing_are_warned_of():
    with pytest.warns(RangeWarning) as caught:
        found = open_picture(Image.fromarray((RAMP * 4095).astype(np.uint16)))
    assert str(caught[0].message) == (
        "A picture of 16 bits has no level above 4095 of 65535 and declares no smaller range, so "
        "it is read almost black. Pass a `loader` that scales it: Pictures(..., loader=...), or an "
        "array. `check_pictures` lists such files."
    )
    assert np.asarray(found).max() == 16


def test_gray_and_alpha_where_they_are_asked_for(tmp_path):
    gray, colors, clear = levels(1), levels(3), levels(4)
    assert np.array_equal(open_picture(Image.fromarray(gray), mode="L"), gray)
    assert np.array_equal(open_picture(Image.fromarray(clear), mode="RGBA"), clear)
    opaque = np.asarray(open_picture(Image.fromarray(colors), mode="RGBA"))
    assert np.array_equal(opaque[..., :3], colors)
    assert (opaque[..., 3] == 255).all()
    seen = open_picture(Image.fromarray(clear))  # over white
    assert np.array_equal(open_picture(Image.fromarray(clear), mode="L"), seen.convert("L"))
    deep = levels(1, np.uint16)
    wanted = np.rint(deep / 257).astype(np.uint8)
    assert np.array_equal(open_picture(Image.fromarray(deep), mode="L"), wanted)
    path = tmp_path / "hole.png"
    Image.fromarray(deep).save(path, transparency=int(deep[2, 3]))
    alpha = np.asarray(open_picture(path, mode="RGBA"))[..., 3]
    assert (alpha == 0).sum() == 1
    assert alpha[2, 3] == 0


def test_twelve_bits_that_a_tiff_file_says_it_has():
    """Pillow gives them in 16 bits; written by hand, since it writes none."""
    values = [0, 1365, 2730, 4095]
    bits = "".join(f"{value:012b}" for value in values)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    tags = [(256, 3, 4), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, 1), (279, 4, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    file = io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    assert Image.open(file).mode == "I;16"
    assert np.asarray(open_picture(file, mode="L")).tolist() == [[0, 85, 170, 255]]
