"""Checking data sets: bad files of many kinds, wrong sizes, missing classes, duplicates."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recurrent_attention.data import CUB200, BadPicture, PictureFolder, Pictures, check_pictures


def noise(seed, size=(40, 30)):
    levels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(kind, data, crc=0):
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) ^ crc)
    )


def png(width, height, data=b"", *, header_crc=0, data_crc=0):
    """A gray PNG of one bit a pixel."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = chunk(b"IDAT", data, data_crc) if data else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, header_crc) + packed + chunk(b"IEND", b"")


JPEG = encoded(noise(0), "jpeg")
HUGE_JPEG = bytearray(JPEG)
FRAME = JPEG.index(b"\xff\xc0")
HUGE_JPEG[FRAME + 5 : FRAME + 9] = b"\xff\xff\xff\xff"  # height and width
ROWS = zlib.compress(bytes(6 * 20))  # 40 x 20 pixels of one bit
SMALL = encoded(noise(1, (16, 16)), "png")
ICON = b"ic07" + struct.pack(">I", len(SMALL) + 8) + SMALL  # ic07 says that it has 128 x 128 pixels
ICON = b"icns" + struct.pack(">I", len(ICON) + 8) + ICON
TRUNCATED = "image file is truncated"
NOT_READ = "data in none of the formats JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, AVIF, HEIF"
BAD_FILES = {
    "cut off.jpg": (JPEG[:-300], TRUNCATED),
    "without its data.jpg": (JPEG[: FRAME + 30], ""),
    "empty.jpg": (b"", "an empty file"),
    "text.jpg": (b"no picture", NOT_READ),
    "page.png": (b"<html>404</html>", NOT_READ),
    "zeros.jpg": (bytes(1000), NOT_READ),
    "archive.jpg": (b"PK\x03\x04" + bytes(100), NOT_READ),
    "header sum.png": (png(40, 20, ROWS, header_crc=1), ""),
    "no data.png": (png(40, 20), ""),
    "no pixels wide.png": (png(0, 20, ROWS), ""),
    "cut off.png": (encoded(noise(2), "png")[:-500], TRUNCATED),
    "no frames.png": (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", ""),
    "cut off.webp": (encoded(noise(3), "webp")[:-200], ""),
    "cut off.bmp": (encoded(noise(4), "bmp")[:-200], TRUNCATED),
    "cut off.tif": (encoded(noise(5), "tiff")[:-200], ""),
    "cut off.ppm": (encoded(noise(6), "ppm")[:-200], TRUNCATED),
    "icon.png": (ICON, NOT_READ),  # of a format that is not even tried
    "vector.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_READ),
}
BOMBS = {
    "bomb.png": png(40_000, 40_000, zlib.compress(bytes(5001), 9)),
    "huge header.png": png(2**31 - 1, 2**31 - 1, ROWS),
    "huge header.jpg": bytes(HUGE_JPEG),
}
WRONG_SIZES = {
    "narrow.png": (encoded(noise(7, (7, 90)), "png"), "7 x 90 pixels, less than 8 on a side"),
    "dot.png": (encoded(noise(8, (1, 1)), "png"), "1 x 1 pixels, less than 8 on a side"),
}


def turned(form, seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(seed), form, exif=exif)


GOOD_FILES = {
    "cmyk.jpg": encoded(noise(10).convert("CMYK"), "jpeg"),
    "progressive.jpg": encoded(noise(11), "jpeg", progressive=True),
    "and more.jpg": encoded(noise(12), "jpeg") + b"garbage at the end",
    "a png.jpg": encoded(noise(13), "png"),
    # Pillow does not look at the sums of these: zlib has its own, and the end holds nothing.
    "data sum.png": png(40, 20, ROWS, data_crc=1),
    "sum of the end.png": png(40, 10, zlib.compress(bytes(6 * 10)))[:-1] + b"x",
    "16 bits.png": encoded(
        Image.fromarray(np.random.default_rng(14).integers(0, 65535, (20, 20)).astype(np.uint16)),
        "png",
    ),
    "gray and alpha.png": encoded(noise(15).convert("LA"), "png"),
    "palette.png": encoded(noise(16).convert("P"), "png"),
    "turned.jpg": turned("jpeg", 17),
    "turned.tif": turned("tiff", 18),
    "animated.webp": encoded(noise(19), "webp", save_all=True, append_images=[noise(20)]),
    "damaged exif.jpg": encoded(noise(21), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "8 pixels.bmp": encoded(noise(22, (8, 8)), "bmp"),
    "UPPER.JPEG": encoded(noise(23), "jpeg"),
}


@pytest.fixture
def bad_folder(tmp_path, monkeypatch):
    """A class of good pictures, and one of good and bad ones; the bad names with their reasons."""
    root = tmp_path / "birds"
    for folder in ("good", "mixed"):
        (root / folder).mkdir(parents=True)
    for name, content in GOOD_FILES.items():
        (root / "good" / name).write_bytes(content)
    mixed = root / "mixed"
    (mixed / "fine.jpg").write_bytes(encoded(noise(30), "jpeg"))
    expected = {}
    for name, (content, reason) in BAD_FILES.items():
        (mixed / name).write_bytes(content)
        expected[mixed / name] = ("unreadable", reason)
    for name, content in BOMBS.items():
        (mixed / name).write_bytes(content)
        expected[mixed / name] = ("decompression bomb", "exceeds limit")
    for name, (content, reason) in WRONG_SIZES.items():
        (mixed / name).write_bytes(content)
        expected[mixed / name] = ("wrong size", reason)
    (mixed / "folder.jpg").mkdir()
    (mixed / "link.jpg").symlink_to("nowhere")
    expected[mixed / "link.jpg"] = ("unreadable", "a link to nothing")
    (mixed / "circle.jpg").symlink_to("circle.jpg")
    expected[mixed / "circle.jpg"] = ("unreadable", "Too many levels of symbolic links")
    if hasattr(os, "mkfifo"):
        os.mkfifo(mixed / "pipe.jpg")
        expected[mixed / "pipe.jpg"] = ("unreadable", "it is a pipe")
    (mixed / "forbidden.jpg").write_bytes(JPEG)
    expected[mixed / "forbidden.jpg"] = ("unreadable", "Permission denied")
    opened = Path.open

    def forbidding(path, *args, **kwargs):  # also for root, to whom the system forbids nothing
        if path.name == "forbidden.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidding)
    return root, expected


def snapshot(root):
    return sorted(
        (path, path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")
    )


@pytest.mark.filterwarnings("error")
def test_each_kind_of_bad_file_is_found(bad_folder):
    root, expected = bad_folder
    before, state = snapshot(root), torch.get_rng_state()
    report = check_pictures(root, progress=False)
    assert snapshot(root) == before
    assert torch.equal(torch.get_rng_state(), state)
    found = {problem.paths[0]: problem for problem in report.problems}
    assert len(found) == len(report.problems)
    assert set(found) == set(expected)
    for path, (kind, reason) in expected.items():
        assert found[path].kind == kind, path
        assert reason in found[path].reason, path
        assert found[path].reason.strip()
        assert "\n" not in str(found[path])
    no_files = 1 + hasattr(os, "mkfifo")  # a link to nothing, a pipe: no picture of the data set
    assert report.splits == {"all": len(GOOD_FILES) + len(expected) + 1 - no_files}
    assert not report.ok
    assert report.ignored == ()
    text = str(report)
    unreadable = len(report.of_kind("unreadable"))
    assert f"{unreadable} pictures cannot be read\n" in text
    assert f"    ... and {unreadable - 5} more\n" in text
    assert "3 pictures are larger than allowed, or decompression bombs\n" in text
    assert text.endswith("all of them: --all, or `report.problems` and `report.ignored` in Python")
    everything = report.describe(most=None)
    assert all(f"    {path}: " in everything for path in expected)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_bad_pictures_are_left_out_of_a_data_set(bad_folder):
    root, expected = bad_folder
    no_files = {root / "mixed" / name for name in ("link.jpg", "pipe.jpg")}
    with pytest.warns(UserWarning, match="files? that (is|are) no picture"):
        pictures = PictureFolder(root)
    assert not no_files & set(map(pictures.path, range(len(pictures))))
    kept, bad = pictures.readable(progress=False)
    unreadable = {path for path, (kind, _) in expected.items() if kind != "wrong size"} - no_files
    assert type(kept) is PictureFolder
    assert {picture.path for picture in bad} == unreadable
    assert all(isinstance(picture, BadPicture) and picture.reason for picture in bad)
    expected_names = [n for i, n in enumerate(pictures.names) if pictures.path(i) not in unreadable]
    assert list(kept.names) == expected_names
    for index in range(len(kept)):
        kept[index]
    for picture in bad:
        with pytest.raises((ValueError, FileNotFoundError)):
            pictures[pictures.names.index(picture.path.relative_to(root).as_posix())]


def test_processes_give_the_same(tmp_path):
    for number in range(40):
        (tmp_path / "a").mkdir(exist_ok=True)
        content = JPEG[: -number or None] if number % 7 == 0 else encoded(noise(number), "jpeg")
        (tmp_path / "a" / f"{number}.jpg").write_bytes(content)
    alone = check_pictures(tmp_path, progress=False)
    assert len(alone.of_kind("unreadable")) == 5
    assert check_pictures(tmp_path, num_workers=2, progress=False) == alone
    data = PictureFolder(tmp_path)
    assert data.readable(num_workers=2, progress=False)[1] == data.readable(progress=False)[1]
    for call in (
        lambda n: check_pictures(tmp_path, num_workers=n),
        lambda n: data.readable(num_workers=n),
    ):
        with pytest.raises(ValueError) as caught:
            call(-1)
        assert str(caught.value) == "Expected `num_workers` to be at least 0, but got -1."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers must inherit what the test changed")
def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    """As the system does to a process that takes too much memory: an error, and no hanging."""
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(JPEG)
    module = "recurrent_attention.data.decoding.open_picture"
    monkeypatch.setattr(module, lambda path: os._exit(9))
    with pytest.raises(RuntimeError) as caught:
        check_pictures(tmp_path, num_workers=1, progress=False)
    assert str(caught.value) == (
        "Expected each process to decode its pictures, but one was ended, perhaps for want of "
        f"memory, at {tmp_path / 'a' / '0.jpg'} or soon after it. Take fewer `num_workers`."
    )


def test_no_memory_for_a_picture(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(JPEG)

    def full(path):
        raise MemoryError

    monkeypatch.setattr("recurrent_attention.data.decoding.open_picture", full)
    report = check_pictures(tmp_path, progress=False)
    assert report.problems[0].reason == "more pixels than there is memory for"


def write(root, files):
    for name, picture in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = noise(picture) if isinstance(picture, int) else picture
        if isinstance(picture, bytes):
            (root / name).write_bytes(picture)
        else:
            picture.save(root / name)


def problems_of(report, root):
    return [
        (
            problem.kind,
            [path.relative_to(root).as_posix() for path in problem.paths],
            problem.reason,
        )
        for problem in report.problems
    ]


def test_duplicates_and_classes_of_train_and_test(tmp_path):
    photo = encoded(noise(1), "jpeg")
    decoded = Image.open(io.BytesIO(photo))
    near = np.array(decoded)
    near[0, 0, 0] ^= 1
    write(
        tmp_path,
        {
            "train/wren/1.jpg": photo,
            "train/wren/copy.jpg": photo,
            "test/wren/again.jpg": photo,
            "test/owl/other class.png": decoded,  # the same pixels, other bytes
            "train/wren/2.png": 2,
            "train/wren/2 again.bmp": 2,
            "train/owl/near.png": Image.fromarray(near),  # one bit apart: not the same
            "train/auk/3.png": 3,
            "train/emu/4.png": 4,
            "train/emu/5.png": b"",
            "test/emu/6.png": b"broken",
            "val/wren/7.png": 7,
            "val/owl/8.png": 8,
            "val/emu/9.png": 9,
            "val/auk/10.png": 10,
            "val/ibis/11.png": b"broken",
        },
    )
    (tmp_path / "train" / "kiwi").mkdir()
    report = check_pictures(tmp_path, progress=False)
    assert report.layout == "folders train, val, test, each with a folder for each class"
    assert report.class_names == ("auk", "emu", "ibis", "kiwi", "owl", "wren")
    assert report.splits == {"train": 8, "val": 5, "test": 3}
    assert problems_of(report, tmp_path)[3:] == [
        (
            "empty class",
            ["train/ibis", "val/ibis", "test/ibis"],
            "none of its pictures can be read",
        ),
        ("empty class", ["train/kiwi", "val/kiwi", "test/kiwi"], "it has no picture"),
        ("missing class", ["test/auk"], "auk has no picture that can be read in test"),
        ("missing class", ["test/emu"], "emu has no picture that can be read in test"),
        (
            "duplicate across splits",
            [
                "train/wren/1.jpg",
                "train/wren/copy.jpg",
                "test/owl/other class.png",
                "test/wren/again.jpg",
            ],
            "the same pixels, in train and test, under different classes: wren, owl",
        ),
        ("duplicate", ["train/wren/2 again.bmp", "train/wren/2.png"], "the same pixels"),
    ]
    assert [problem.kind for problem in report.problems[:3]] == ["unreadable"] * 3


def test_a_duplicate_file_and_a_class_without_pictures(tmp_path):
    write(tmp_path, {"a/1.jpg": JPEG, "a/2.jpg": JPEG, "b/notes.txt": b"x"})
    report = check_pictures(tmp_path, progress=False)
    assert problems_of(report, tmp_path) == [
        ("empty class", ["b"], "it has no picture"),
        ("duplicate", ["a/1.jpg", "a/2.jpg"], "the same file"),
    ]


def test_ignored_files_are_told_but_no_fault(tmp_path):
    write(
        tmp_path,
        {
            "a/1.jpg": 1,
            "a/deep/2.jpg": 2,
            "a/3.psd": b"8BPS",
            "a/deep/notes.txt": b"x",
            "a/.hidden.txt": b"x",
            "loose.jpg": 3,
            "README.md": b"x",
        },
    )
    report = check_pictures(tmp_path, progress=False)
    assert report.ok
    assert report.problems == ()
    assert [(str(p.paths[0].relative_to(tmp_path)), p.reason) for p in report.ignored] == [
        ("README.md", "it is no picture"),
        ("loose.jpg", "it lies in no class's folder"),
        ("a/3.psd", "its name ends like no format that is read"),
        ("a/deep/notes.txt", "its name ends like no format that is read"),
    ]
    assert str(report) == "\n".join(
        [
            "a folder for each class: 2 pictures of 1 class",
            "4 files are ignored",
            *(f"    {problem}" for problem in report.ignored),
            "nothing is wrong",
        ]
    )


def test_classes_that_are_called_like_splits(tmp_path):
    write(tmp_path, {"train/1.png": 1, "test/2.png": 2})  # a train, and a test card
    assert check_pictures(tmp_path, progress=False).class_names == ("test", "train")
    write(tmp_path, {"bus/3.png": 3, "train/deep/4.png": 4})
    assert check_pictures(tmp_path, progress=False).class_names == ("bus", "test", "train")


def test_cub_is_recognised(cub):
    for root in (cub, cub.parent):
        report = check_pictures(root, progress=False)
        assert report.ok
        assert str(report) == (
            "CUB-200-2011 in its official layout: 6 pictures of 2 classes (4 train, 2 test)\n"
            "nothing is wrong"
        )
    first = cub / "images" / "001.Auk" / "auk_10.jpg"  # of the train part
    (cub / "images" / "005.Wren" / "wren_c.jpg").write_bytes(first.read_bytes())  # of the test part
    (cub / "images" / "001.Auk" / "auk_2.jpg").unlink()
    (cub / "images" / "001.Auk" / "auk_3.jpg").touch()
    report = check_pictures(cub, progress=False)
    assert problems_of(report, cub / "images") == [
        ("unreadable", ["001.Auk/auk_2.jpg"], "there is no file"),
        (
            "duplicate across splits",
            ["001.Auk/auk_10.jpg", "005.Wren/wren_c.jpg"],
            "the same file, in train and test, under different classes: 001.Auk, 005.Wren",
        ),
    ]
    assert [problem.paths[0].name for problem in report.ignored] == ["auk_3.jpg"]
    assert report.ignored[0].reason == "the data set's lists do not name it"
    (cub / "train_test_split.txt").write_text("".join(f"{i} 1\n" for i in (40, 7, 9, 12, 3, 8)))
    assert check_pictures(cub, progress=False).splits == {"train": 6}
    (cub / "classes.txt").write_text("x")
    with pytest.raises(ValueError, match="^Expected line 1 of .*classes.txt to be a number"):
        check_pictures(cub)


def test_dogs_are_recognised(dogs):
    report = check_pictures(dogs.parent, progress=False)
    assert report.layout == "Stanford Dogs in its official layout"
    assert report.splits == {"train": 3, "test": 2}
    assert report.ok


def test_data_sets_in_memory(tmp_path):
    write(tmp_path, {"1.png": 1, "2.png": 2, "3.png": 3})
    train = Pictures(tmp_path, ["1.png", "2.png"], [0, 1], ["a", "b"])
    test = Pictures(tmp_path, ["2.png", "3.png"], [1, 1], ["a", "b"])
    assert check_pictures(train, progress=False).ok
    report = check_pictures([train, test], progress=False)
    assert report.splits == {"part 1": 2, "part 2": 2}
    assert problems_of(report, tmp_path) == [
        ("missing class", ["a"], "a has no picture that can be read in part 2"),
        ("duplicate across splits", ["2.png"], "listed more than once, in part 1 and part 2"),
    ]
    with pytest.raises(ValueError) as caught:
        check_pictures([train, Pictures(tmp_path, ["3.png"], [0], ["b", "a"])])
    assert str(caught.value) == (
        "Expected the parts of the data to have the same classes in the same order, but got 2 "
        "different `class_names`."
    )
    for wrong in ([], 3):
        with pytest.raises(TypeError) as caught:
            check_pictures(wrong)
        assert str(caught.value) == (
            f"Expected `data` to be a folder or a list of Pictures, but got {wrong}."
        )
    with pytest.raises(TypeError) as caught:
        check_pictures([train, "test"])
    assert str(caught.value) == "Expected `data` to be a list of Pictures, but it holds 'test'."


def test_nothing_to_check(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        check_pictures(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"Expected a folder of pictures at {tmp_path / 'nowhere'}, but there is none."
    )
    with pytest.raises(FileNotFoundError, match="to hold one folder of pictures for each class"):
        check_pictures(tmp_path)
    for name in ("train/a", "test/a"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="to hold one folder of pictures for each class"):
        check_pictures(tmp_path)


@pytest.mark.slow
@pytest.mark.data
def test_the_real_birds_are_in_order(real_data):
    folder = real_data / "CUB_200_2011_first50"
    report = check_pictures(every_fifth(folder), progress=False)
    assert report.ok
    assert report.splits == {"part 1": 300, "part 2": 278}


def every_fifth(folder):
    """Every fifth picture of each split, as all of them take a quarter of a minute."""
    whole = [CUB200(folder, split) for split in ("train", "test")]
    return [pictures.subset(range(0, len(pictures), 5)) for pictures in whole]
