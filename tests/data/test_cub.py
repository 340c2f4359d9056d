"""Reading pictures, CUB's layout, folders per class and patch files."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.layouts import ROWS, write
from helpers.loopback import honest
from PIL import Image

from recurrent_attention.data import (
    CUB200,
    PictureFolder,
    Pictures,
    find_patch_files,
    read_patch_file,
)
from recurrent_attention.data._fetching.download import RemoteFile
from recurrent_attention.data.pictures import picture_size
from recurrent_attention.images import open_picture


def write_patches(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(rows, dtype=np.float64))
    return path


def test_cub_joins_by_id_and_sorts_by_file_name(cub):
    train, test = CUB200(cub, "train"), CUB200(cub, "test")
    assert train.names == (
        "001.Auk/auk_10.jpg",
        "001.Auk/auk_2.jpg",
        "005.Wren/wren_a.jpg",
        "005.Wren/wren_b.jpg",
    )
    assert train.labels == (0, 0, 1, 1)
    assert train.class_names == ("001.Auk", "005.Wren")
    assert test.names == ("001.Auk/auk_1.jpg", "005.Wren/wren_c.jpg")
    assert CUB200(cub, "all").labels == (0, 0, 0, 1, 1, 1)
    ids = {name: image_id for image_id, (name, _, _) in ROWS.items()}
    for data in (train, test):
        for index, name in enumerate(data.names):
            picture, _ = data[index]
            expected = (ids[name], 2 * ids[name], 3 * ids[name])
            assert np.abs(np.array(picture.getpixel((5, 5))) - expected).max() <= 2
            assert data.bounding_boxes[name] == (ids[name], 2.0, ids[name] + 30.0, 42.5)
            assert data.parts[name] == {"back": (ids[name] + 0.5, 6.0)}


def test_cub_is_found_from_the_folder_above_and_without_boxes(cub):
    (cub / "bounding_boxes.txt").unlink()
    (cub / "parts" / "parts.txt").unlink()
    data = CUB200(cub.parent)
    assert len(data) == 4
    assert data.bounding_boxes == {}
    assert data.parts == {}


def test_cub_of_the_wrong_layout(cub):
    for file in ("images.txt", "classes.txt"):
        (cub / file).unlink()
    found = "bounding_boxes.txt, image_class_labels.txt, images, parts, train_test_split.txt"
    with pytest.raises(FileNotFoundError) as caught:
        CUB200(cub)
    assert str(caught.value) == (
        f"Expected the layout of CUB-200-2011 in {cub}, but images.txt, classes.txt is missing; "
        f"found: {found}. For a folder per class use PictureFolder."
    )
    with pytest.raises(FileNotFoundError, match="found: no such folder"):
        CUB200(cub / "nowhere")


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "image_class_labels.txt",
            ["40 1", "7 1"],
            "a row for each image of images.txt, but 4 of 6 are missing, the first with id 3.",
        ),
        (
            "classes.txt",
            ["1 001.Auk"],
            "to name class 5 of 005.Wren/wren_a.jpg, but it names 1 other",
        ),
        (
            "train_test_split.txt",
            [f"{i} 0" for i in ROWS],
            "for the train split, but it marks none.",
        ),
        (
            "images.txt",
            ["1 a/b.jpg", "x y"],
            "Expected line 2 of .*images.txt to be a number and 1",
        ),
        ("images.txt", ["1 a/b.jpg", "1 c/d.jpg"], "1 is again in line 2 of .*images.txt.$"),
        ("images.txt", ["\u00b2 a/b.jpg"], "Expected line 1 of .*images.txt to be a number and 1"),
        (
            "image_class_labels.txt",
            [f"{i} auk" for i in ROWS],
            "labels.txt to give each image the number of a class, but got 'auk' for 40.",
        ),
        (
            "train_test_split.txt",
            [f"{i} 2" for i in ROWS],
            "train_test_split.txt to mark each image with 0 or 1, but got '2' for 005.Wren/wren_a",
        ),
        (
            "bounding_boxes.txt",
            ["40 1 2 3 wide"],
            "Expected the row of 40 in .*bounding_boxes.txt to hold numbers, but got '1 2 3 wide'.",
        ),
        ("bounding_boxes.txt", ["40 1 2 3 nan"], "to hold numbers, but got '1 2 3 nan'.$"),
        (
            "parts/part_locs.txt",
            ["40 9 1 1 1"],
            "Expected line 1 of .*part_locs.txt to be an image, a part of parts.txt, x, y and "
            "whether it is visible, but got '40 9 1 1 1'.",
        ),
        ("parts/part_locs.txt", ["40"], "Expected line 1 of .*part_locs.txt to be an image, a"),
        ("parts/part_locs.txt", ["40 1"], "Expected line 1 of .*part_locs.txt to be an image, a"),
        ("parts/part_locs.txt", ["40 1 x y 1"], "part_locs.txt to hold numbers, but got 'x y'.$"),
    ],
)
def test_cub_files_that_disagree(cub, file, lines, message):
    write(cub / file, lines)
    with pytest.raises(ValueError, match=message):
        CUB200(cub)


@pytest.mark.parametrize(
    "name", ["/etc/x.jpg", "../x.jpg", "001.Auk/../../x.jpg", "C:/x.jpg", "a\\..\\x.jpg", "a/.."]
)
def test_cub_names_that_lead_out(cub, name):
    write(cub / "images.txt", [f"{i} {name if i == 7 else ROWS[i][0]}" for i in ROWS])
    with pytest.raises(ValueError) as caught:
        CUB200(cub)
    assert str(caught.value) == (
        f"Expected names of pictures below {cub / 'images'}, but got {name!r}."
    )


def test_cub_text_that_is_none(cub):
    (cub / "classes.txt").write_bytes(b"1 001.Auk\n5 \xff\xfe\n")
    with pytest.raises(ValueError) as caught:
        CUB200(cub)
    assert str(caught.value) == (
        f"Expected {cub / 'classes.txt'} to be text in UTF-8, but got: 'utf-8' codec can't decode "
        "byte 0xff in position 12: invalid start byte."
    )


def test_cub_unknown_split(cub):
    with pytest.raises(
        ValueError, match="^Expected `split` to be 'train', 'test' or 'all', but got"
    ):
        CUB200(cub, "val")


@pytest.fixture
def cub_on_a_server(cub, server, monkeypatch):
    """A server that has the data set as an archive, laid out as the official one."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(cub, "CUB_200_2011")
        tar.add(cub / "classes.txt", "attributes.txt")
    server.content = packed.getvalue()
    md5 = hashlib.md5(server.content).hexdigest()
    archive = RemoteFile(server.url, len(server.content), md5)
    monkeypatch.setattr("recurrent_attention.data.cub.ARCHIVE", archive)
    monkeypatch.setattr("recurrent_attention.data._fetching.archive._to_disk", lambda: None)
    monkeypatch.setattr(
        "recurrent_attention.data._fetching.download.time.sleep", lambda seconds: None
    )
    return server


def test_cub_is_downloaded_once(cub, cub_on_a_server, tmp_path):
    cub_on_a_server.replies = [lambda handler: honest(handler, until=700)]
    root = tmp_path / "new" / "data"
    data = CUB200(root, download=True, progress=False)
    assert cub_on_a_server.asked == [None, "bytes=700-"]
    assert data.folder == root / "CUB_200_2011"
    assert data.names == CUB200(cub).names
    assert data.bounding_boxes == CUB200(cub).bounding_boxes
    assert np.array_equal(data[0][0], CUB200(cub)[0][0])
    assert (data.folder / "attributes.txt").is_file()
    for again in (root, root / "CUB_200_2011"):
        assert len(CUB200(again, "test", download=True, progress=False)) == 2
    assert len(cub_on_a_server.asked) == 2


def test_cub_that_is_there_in_part_is_no_download(cub, cub_on_a_server):
    (cub / "images" / "001.Auk" / "auk_1.jpg").unlink()
    (cub / "images" / "005.Wren" / "wren_b.jpg").unlink()
    for root in (cub, cub.parent):
        with pytest.raises(FileNotFoundError) as caught:
            CUB200(root, download=True)
        assert str(caught.value) == (
            f"Expected {cub} to hold the 6 pictures that its lists name, but 2 are missing, the "
            "first 001.Auk/auk_1.jpg. Remove or rename the folder and call again."
        )
    (cub / "images.txt").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        CUB200(cub.parent, download=True)
    assert str(caught.value).startswith(
        f"Expected the layout of CUB-200-2011 in {cub}, but images.txt is missing; found: "
    )
    assert cub_on_a_server.asked == []


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("L", 70, (70, 70, 70)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (70, 255), (70, 70, 70)),
        ("P", 3, None),
        ("I;16", 0, (0, 0, 0)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_picture_becomes_rgb(tmp_path, mode, pixel, expected):
    path = tmp_path / "picture.png"
    Image.new(mode, (4, 4), pixel).save(path)
    picture = open_picture(path)
    assert picture.mode == "RGB"
    if expected is not None:
        assert picture.getpixel((0, 0)) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path, orientation):
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert open_picture(path).size == picture_size(path)
    assert picture_size(path) == ((4, 6) if orientation >= 5 else (6, 4))


def test_bad_pictures_are_named_and_never_replaced(tmp_path):
    good, cut, text = tmp_path / "good.jpg", tmp_path / "cut.jpg", tmp_path / "text.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cut.write_bytes(good.read_bytes()[:2000])
    text.write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    data = Pictures(
        tmp_path, ["good.jpg", "cut.jpg", "text.jpg", "empty.jpg", "gone.jpg"], [0] * 5, "a"
    )
    data[0]
    for index in (1, 2, 3):
        with pytest.raises(ValueError, match="^Expected a readable picture at") as caught:
            data[index]
        assert str(data.path(index)) in str(caught.value)
        assert str(caught.value).endswith("Replace or remove the file.")
    with pytest.raises(FileNotFoundError) as caught:
        data[4]
    assert str(caught.value) == (
        f"Expected a picture at {tmp_path / 'gone.jpg'}, but there is no file."
    )


def test_pictures_listed_twice_or_unequal(tmp_path):
    with pytest.raises(
        ValueError, match=r"^Expected each picture to be listed once, but a.jpg is listed twice"
    ):
        Pictures(tmp_path, ["a.jpg", "b.jpg", "a.jpg"], [0, 0, 0], "a")
    with pytest.raises(ValueError, match="to be equally many, but got 2 and 1.$"):
        Pictures(tmp_path, ["a.jpg", "b.jpg"], [0], "a")


@pytest.mark.filterwarnings("ignore:1 of 3 classes:UserWarning")
def test_validation_split_is_stratified_seeded_and_disjoint(tmp_path):
    labels = [0] * 40 + [1] * 10 + [2] * 1
    data = Pictures(tmp_path, [f"{i}.jpg" for i in range(51)], labels, "abc")
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="one picture") as said:
        rest, held_out = data.split(0.2, seed=3)
    assert str(said[0].message) == (
        "1 of 3 classes have one picture, which cannot be split: c. What is split off lacks them."
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [held_out.labels.count(label) for label in range(3)] == [8, 2, 0]
    assert sorted(rest.names + held_out.names) == sorted(data.names)
    assert data.split(0.2, seed=3)[1].names == held_out.names
    assert data.split(0.2, seed=4)[1].names != held_out.names
    for name, label in zip(held_out.names, held_out.labels, strict=True):
        assert labels[int(Path(name).stem)] == label
    with pytest.raises(ValueError, match=r"^Expected `fraction` to be in \(0, 1\), but got 1"):
        data.split(1, seed=0)


def test_folder_per_class(tmp_path):
    for name in ("wren/b.JPG", "wren/deep/a.png", "finch/1.jpg", "finch/notes.txt", ".git/x.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="Left out") as said:
        data = PictureFolder(tmp_path)
    assert str(said[0].message) == (
        f"Left out of {tmp_path}: 1 class without pictures (empty), 1 file that is no picture "
        "(finch/notes.txt)."
    )
    (tmp_path / "finch" / "notes.txt").unlink()
    assert data.class_names == ("finch", "wren")
    assert data.names == ("finch/1.jpg", "wren/b.JPG", "wren/deep/a.png")
    assert data.labels == (0, 1, 1)
    other = PictureFolder(tmp_path, class_names=("wren", "owl", "finch"))
    assert other.labels == (0, 0, 2)
    with pytest.raises(ValueError, match="to be among the 1 known classes, but got 'finch'"):
        PictureFolder(tmp_path, class_names=("wren",))


def test_folder_without_classes(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FileNotFoundError) as caught:
        PictureFolder(tmp_path)
    assert str(caught.value) == (
        f"Expected {tmp_path} to hold one folder of pictures for each class, but found a.jpg. Put "
        "pictures at CLASS/NAME.jpg below it."
    )
    with pytest.raises(FileNotFoundError, match="but there is none.$"):
        PictureFolder(tmp_path / "nowhere")


def rows_for(train):
    """One box a picture, in the order of sorted names; y differs from x, each row is its own."""
    return [
        [[112 + i, 224 + i, 44.8 * (i + 1), 44.8 * (i + 2), label]]
        for i, label in enumerate(train.labels)
    ]


def test_patch_file_pairs_by_sorted_name_and_converts_to_pixels(cub):
    train = CUB200(cub)
    path = write_patches(cub / "train_patches.npy", rows_for(train))
    shuffled = train.subset([2, 0, 3, 1])
    for data in (train, shuffled):
        boxes = read_patch_file(path, data)
        for i, name in enumerate(train.names):
            width, height = Image.open(cub / "images" / name).size
            expected = [
                44.8 * (i + 1) * width / 448,
                (112 + i) * height / 448,
                44.8 * (i + 2) * width / 448,
                (224 + i) * height / 448,
            ]
            torch.testing.assert_close(boxes[name], torch.tensor([expected]))


def test_patch_file_of_another_split(cub):
    path = write_patches(cub / "train_patches.npy", rows_for(CUB200(cub)))
    with pytest.raises(ValueError) as caught:
        read_patch_file(path, CUB200(cub, "test"))
    assert str(caught.value) == (
        f"Expected {path} to hold boxes for the 2 pictures of this split, but got 4. Use the file "
        "of the same split and of the whole split."
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [10, 10, 5, 20],
            r"Expected box 0 of 001.Auk/auk_10.jpg to be \(x0, y0, x1, y1\) with x0 < x1",
        ),
        ([20, 10, 5, 20], "Expected box 0 of"),
        ([10, 20, 5, 500], r"inside its 100 x 50 picture, but got"),
        ([-30, 20, 5, 50], "Expected box 0 of"),
        ([float("nan"), 20, 5, 50], "Expected box 0 of"),
    ],
)
def test_patch_file_with_a_bad_box(cub, row, message):
    train = CUB200(cub)
    rows = rows_for(train)
    rows[0] = [[*row, 0]]
    path = write_patches(cub / "train_patches.npy", rows)
    with pytest.raises(ValueError, match=message):
        read_patch_file(path, train)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(shape, dtype="<f8"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


TABLE = np.ones((4, 2, 5))
HOSTILE_TABLES = {
    "a pickle": (b"cos\nsystem\n(S'true'\ntR.", "a NumPy array file, but got: no array in its"),
    "a zip": (b"PK\x03\x04" + bytes(50), "a NumPy array file, but got: no array in its format"),
    "cut off": (npy(TABLE)[:-1], "a NumPy array file, but got: mmap length is greater than file"),
    "petabytes": (npy_header((4, 10**12, 5)), "but got: mmap length is greater than file size"),
    "more than numbers": (npy_header((2**32, 2**32, 5)), "to be a NumPy array file, but got: "),
    "less than none": (npy_header((-4, 1, 5)), "to be a NumPy array file, but got: "),
    "half a header": (npy(TABLE)[:30], "to be a NumPy array file, but got: "),
    "brackets": (npy_header("(" * 900), "to be a NumPy array file, but got: "),
    "objects": (npy(np.array([[[None] * 5]])), "to be a NumPy array file, but got: "),
    "no boxes": (npy(TABLE[:, :0]), r"in shape \(pictures, boxes, 5\), but got \(4, 0, 5\)."),
    "text": (npy(TABLE.astype(str)), "to hold numbers, but got <U32."),
    "complex numbers": (npy(TABLE * 1j), "to hold numbers, but got complex128."),
    "dates": (npy(TABLE.astype("M8[s]")), r"to hold numbers, but got datetime64\[s\]."),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", HOSTILE_TABLES)
def test_hostile_patch_files(cub, kind):
    content, sentence = HOSTILE_TABLES[kind]
    path = cub / "train_patches.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_patch_file(path, CUB200(cub))
    assert str(caught.value).startswith(f"Expected {path} to ")
    assert "\n" not in str(caught.value)


def test_patch_files_of_other_types_of_numbers(cub):
    train = CUB200(cub)
    rows = np.array(rows_for(train)).round()
    expected = None
    for dtype in ("<f8", ">f8", "<f4", "<i2", ">u2"):
        path = cub / "train_patches.npy"
        np.save(path, rows.astype(dtype))
        boxes = read_patch_file(path, train)
        expected = expected or boxes
        for name in train.names:
            assert torch.equal(boxes[name], expected[name])


def test_patch_file_that_is_none(cub):
    train = CUB200(cub)
    path = cub / "train_patches.npy"
    with pytest.raises(
        FileNotFoundError, match="^Expected a patch file at .*, but there is no file.$"
    ):
        read_patch_file(path, train)
    path.write_text("boxes")
    with pytest.raises(ValueError, match="to be a NumPy array file, but got"):
        read_patch_file(path, train)
    np.save(path, np.array([{"code": "would run"}], dtype=object))
    with pytest.raises(ValueError, match="to be a NumPy array file, but got"):
        read_patch_file(path, train)
    np.save(path, np.zeros((4, 10, 4)))
    with pytest.raises(
        ValueError, match=r"in shape \(pictures, boxes, 5\), but got \(4, 10, 4\).$"
    ):
        read_patch_file(path, train)
    rows = rows_for(train)
    rows[1][0][4] = 1
    write_patches(path, rows)
    with pytest.raises(ValueError, match="Is it another split"):
        read_patch_file(path, train)


def test_find_patch_files(tmp_path):
    (tmp_path / "train_patches.npy").touch()
    with pytest.raises(FileNotFoundError, match=r"but test_patches.npy is missing\.$"):
        find_patch_files(tmp_path)
    (tmp_path / "test_patches.npy").touch()
    assert find_patch_files(tmp_path) == (
        tmp_path / "train_patches.npy",
        tmp_path / "test_patches.npy",
    )
