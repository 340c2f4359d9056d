"""Stanford Dogs: its layout, its lists (compared with scipy), its annotations, its download."""

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from helpers.layouts import BOXES, TRAIN, annotation, cell_of, write_list

from recurrent_attention.data import StanfordDogs
from recurrent_attention.data._fetching.download import RemoteFile
from recurrent_attention.data._fetching.matlab import read_lists


def test_the_official_layout(dogs):
    train, test = StanfordDogs(dogs), StanfordDogs(dogs.parent, "test")
    assert train.class_names == test.class_names == ("n02-Pug", "n01-Collie")
    assert train.names == ("n01-Collie/n01_5.jpg", "n02-Pug/n02_10.jpg", "n02-Pug/n02_9.jpg")
    assert train.labels == (1, 0, 0)
    assert test.names == ("n01-Collie/n01_7.jpg", "n02-Pug/n02_1.jpg")
    assert test.labels == (1, 0)
    both = StanfordDogs(dogs, "all")
    assert sorted(both.names) == sorted(train.names + test.names)
    assert train[0][0].size == (50, 45)
    for data in (train, test, train.subset([2])):
        assert data.bounding_boxes == {name: (BOXES[name], (1, 1, 5, 5)) for name in data.names}


def test_without_annotations(dogs):
    (dogs / "Annotation").rename(dogs / "elsewhere")
    assert StanfordDogs(dogs).bounding_boxes == {}


def test_dogs_of_the_wrong_layout(dogs):
    (dogs / "test_list.mat").unlink()
    for root in (dogs, dogs.parent):
        with pytest.raises(FileNotFoundError) as caught:
            StanfordDogs(root)
        assert str(caught.value) == (
            f"Expected the layout of Stanford Dogs in {dogs}, but test_list.mat is missing; found: "
            "Annotation, Images, train_list.mat. For a folder per class use PictureFolder."
        )
    with pytest.raises(FileNotFoundError, match="found: no such folder"):
        StanfordDogs(dogs / "nowhere")
    with pytest.raises(ValueError, match="^Expected `split` to be 'train', 'test' or 'all', but g"):
        StanfordDogs(dogs, "val")


LISTS_THAT_DISAGREE = {
    "two folders": (
        [*TRAIN, ("n03-Owl/n03_1.jpg", 1)],
        "Expected the lists of {root} to give each class one folder, but class 1 has 'n02-Pug' and "
        "'n03-Owl'.",
    ),
    "two classes": (
        [*TRAIN, ("n02-Pug/n02_3.jpg", 7)],
        "Expected the lists of {root} to give each folder one class, but 3 classes share 2 "
        "folders.",
    ),
    "no folder": (
        [("n02_9.jpg", 1)],
        "Expected {list} to hold names CLASS/NAME.jpg, but got 'n02_9.jpg'.",
    ),
    "a name that leads out": (
        [("../n02-Pug/x.jpg", 5)],
        "Expected names of pictures below {root}/Images, but got '../n02-Pug/x.jpg'.",
    ),
    "class 0": (
        [*TRAIN, ("n02-Pug/n02_3.jpg", 0)],
        "Expected {list} to hold numbers of classes from 1, but got 0.0.",
    ),
    "no pictures": ([], "Expected {list} to name pictures, but it names none."),
}


@pytest.mark.parametrize("kind", LISTS_THAT_DISAGREE)
def test_lists_that_disagree(dogs, kind):
    rows, sentence = LISTS_THAT_DISAGREE[kind]
    write_list(dogs / "train_list.mat", rows)
    with pytest.raises(ValueError) as caught:
        StanfordDogs(dogs)
    assert str(caught.value) == sentence.format(root=dogs, list=dogs / "train_list.mat")


def test_a_list_of_other_lengths(dogs):
    write_list(dogs / "train_list.mat", TRAIN, labels=np.ones((5, 1)))
    with pytest.raises(ValueError) as caught:
        StanfordDogs(dogs)
    assert str(caught.value) == (
        f"Expected {dogs / 'train_list.mat'} to hold a label for each name, but got 3 names and 5 "
        "labels."
    )


@pytest.mark.parametrize("compressed", [True, False])
def test_lists_as_scipy_reads_them(tmp_path, compressed):
    content = {
        "names": cell_of(["a/b.jpg", "", "ü/\N{DOG FACE}.jpg", "x" * 500]),
        "wide": np.array([["a", "b"], ["c", "d"]], dtype=object),
        "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "doubles": np.array([[1.5, -2e300, np.inf]]),
        "longs": np.array([[2**40], [-1]]),
        "none": np.zeros((0, 0)),
        "other": {"a": 1},
    }
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, content, do_compression=compressed)
    names = ["names", "wide", "bytes", "doubles", "longs", "none"]
    found, theirs = read_lists(path, names), scipy.io.loadmat(path)
    for name in names:
        expected = theirs[name].ravel(order="F").tolist()
        if theirs[name].dtype == object:
            expected = [text.item() if text.size else "" for text in expected]
        assert found[name] == expected, name


def test_lists_as_matlab_writes_them():
    """The files of several versions and machines that scipy is tested with, where it has them."""
    folder = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
    tried = 0
    for name in ("double", "matrix", "minus", "3dmatrix"):
        for path in folder.glob(f"test{name}_[67]*.mat"):
            (found,) = read_lists(path, [f"test{name}"]).values()
            assert found == scipy.io.loadmat(path)[f"test{name}"].ravel(order="F").tolist()
            tried += 1
    for path in folder.glob("*_endian.mat"):
        assert read_lists(path, ["strings"]) == {"strings": ["hello", "world"]}
        tried += 1
    if not tried:
        pytest.skip("this scipy comes without its test files")
    assert tried == 18


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(number, shape, name, *body):
    head = element(6, struct.pack("<II", number, 0))
    head += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, head + b"".join(body))


def mat(*variables):
    return (
        b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(variables)
    )


def packed(data):
    data = zlib.compress(data, 9)
    return struct.pack("<II", 15, len(data)) + data


TEXT = matrix(4, (1, 3), b"", element(16, b"a/b"))
NAMES = matrix(1, (1, 1), b"file_list", TEXT)
LABELS = matrix(6, (1, 1), b"labels", element(9, struct.pack("<d", 1)))


def nested(depth):
    """Cells in cells: this crashes an interpreter that follows them with C's own stack."""
    head = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1))
    head += element(1, b"")
    length, opened = len(TEXT), []
    for _ in range(depth):
        length += len(head)
        opened.append(struct.pack("<II", 14, length) + head)
        length += 8
    return matrix(1, (1, 1), b"file_list", b"".join(reversed(opened)) + TEXT)


GOT_END = "an end in the middle of a variable"
HOSTILE_LISTS = {
    "empty": (b"", "another kind of file"),
    "text": (b"no list " * 100, "another kind of file"),
    "MATLAB 4": (struct.pack("<5i", 0, 1, 1, 0, 2) + b"x\0" + bytes(200), "another kind of file"),
    "MATLAB 7.3": (
        mat().replace(struct.pack("<H", 0x0100) + b"IM", struct.pack("<H", 0x0200) + b"IM"),
        "version 0x0200 of the format instead of 0x0100",
    ),
    "no variable": (mat(), "no variable file_list"),
    "one variable": (mat(NAMES), "no variable labels"),
    "cut off in a tag": (mat(NAMES)[:132], "4 bytes too many"),
    "cut off in a variable": (mat(NAMES, LABELS)[:-1], GOT_END),
    "cut off when packed": (mat(packed(NAMES)[:-4]), GOT_END),
    "packed badly": (
        mat(struct.pack("<II", 15, 8) + b"no zlib!"),
        "Error -3 while decompressing data: incorrect header check",
    ),
    "packed without its end": (
        mat(struct.pack("<II", 15, 10) + zlib.compress(NAMES)[:10]),
        "a variable that is cut off, or more than 16777216 bytes",
    ),
    "a bomb": (
        mat(packed(bytes(2**25))),
        "a variable that is cut off, or more than 16777216 bytes",
    ),
    "two bombs": (
        mat(*[packed(matrix(2, (1, 1), b"x", element(1, bytes(9 * 2**20))))] * 2),
        "a variable that is cut off, or more than 16777216 bytes",
    ),
    "packed twice": (mat(packed(packed(NAMES))), "an element of kind 15"),
    "cells 100,000 deep": (mat(nested(100_000)), "a cell that holds no text"),
    "cells 100,000 deep, packed": (mat(packed(nested(100_000))), "a cell that holds no text"),
    "a cell of numbers": (
        mat(matrix(1, (1, 1), b"file_list", LABELS)),
        "a cell that holds no text",
    ),
    "a cell of 2 billion": (
        mat(matrix(1, (2**31 - 1, 1), b"file_list", TEXT)),
        "1 instead of 2147483647 texts",
    ),
    "numbers by the exabyte": (
        mat(NAMES, matrix(6, (2**31 - 1, 2**31 - 1), b"labels", element(9, bytes(8)))),
        "8 bytes for the 4611686014132420609 numbers of labels",
    ),
    "a negative shape": (mat(matrix(6, (-1, 1), b"labels")), "a variable of shape (-1, 1)"),
    "one axis": (mat(matrix(6, (1,), b"labels")), "a variable of shape (1,)"),
    "a structure": (mat(NAMES, matrix(2, (1, 1), b"labels")), "class 2 for labels"),
    "a function": (mat(NAMES, matrix(16, (1, 1), b"labels")), "class 16 for labels"),
    "an object": (mat(NAMES, matrix(17, (1, 1), b"labels")), "class 17 for labels"),
    "complex numbers": (mat(NAMES, matrix(0x806, (1, 1), b"labels")), "class 2054 for labels"),
    "numbers of no kind": (
        mat(NAMES, matrix(6, (1, 1), b"labels", element(99, bytes(8)))),
        "numbers of kind 99 in labels",
    ),
    "text of no kind": (
        mat(matrix(1, (1, 1), b"file_list", matrix(4, (1, 3), b"", element(99, b"a/b")))),
        "text of kind 99",
    ),
    "text that is none": (
        mat(matrix(1, (1, 1), b"file_list", matrix(4, (1, 3), b"", element(16, b"a\xff/")))),
        "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
    ),
    "text of another length": (
        mat(matrix(1, (1, 1), b"file_list", matrix(4, (1, 9), b"", element(16, b"a/b")))),
        "a text of 3 instead of 9 characters",
    ),
    "a small element that is large": (
        mat(element(14, struct.pack("<II", 6 | 9 << 16, 0))),
        "a small element of 9 bytes",
    ),
    "no head": (mat(element(14, element(6, bytes(8)))), "a variable without a head"),
    "something else": (mat(element(1, b"text")), "an element of kind 1"),
}


@pytest.mark.parametrize("kind", HOSTILE_LISTS)
def test_hostile_lists(dogs, kind):
    path = dogs / "test_list.mat"
    content, got = HOSTILE_LISTS[kind]
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        StanfordDogs(dogs)
    assert str(caught.value) == (
        f"Expected {path} to be a MATLAB file with file_list and labels, but got: {got}."
    )


def test_a_list_that_is_too_large(dogs):
    with (dogs / "test_list.mat").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="but got: more than 16777216 bytes.$"):
        StanfordDogs(dogs)


@pytest.mark.slow
def test_a_list_cut_off_anywhere(dogs):
    path = dogs / "test_list.mat"
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="^Expected .*test_list.mat to be a MATLAB file with"):
            StanfordDogs(dogs)


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij"))  # noqa: B905
    + "]><annotation>&j;</annotation>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
HOSTILE_ANNOTATIONS = {
    "a billion laughs": (LAUGHS, "a document type"),
    "a file from outside": (OUTSIDE, "a document type"),
    "the same in UTF-16": (
        LAUGHS.encode("utf-16"),
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "the same in UTF-16 without a mark": (
        LAUGHS.encode("utf-16-le"),
        "zeros",
    ),
    "an unknown entity": (
        "<annotation>&a;</annotation>",
        "undefined entity: line 1, column 12",
    ),
    "empty": ("", "no element found: line 1, column 0"),
    "cut off": (annotation((1, 2, 3, 4))[:-20], "unclosed token: line 1, column 139"),
    "no number": (annotation((1, 2, "x", 4)), "could not convert string to float: 'x'"),
    "not a number": (annotation((1, 2, "nan", 4)), "a box [1.0, 2.0, nan, 4.0]"),
    "infinite": (annotation((1, 2, "1e999", 4)), "a box [1.0, 2.0, inf, 4.0]"),
    "half a box": (
        "<annotation><bndbox><xmin>1</xmin></bndbox></annotation>",
        "could not convert string to float: 'none'",
    ),
    "2 MB": ("<annotation>" + " " * 2_000_000 + "</annotation>", "too long a text"),
}


@pytest.mark.parametrize("kind", HOSTILE_ANNOTATIONS)
def test_hostile_annotations(dogs, kind):
    content, got = HOSTILE_ANNOTATIONS[kind]
    path = dogs / "Annotation" / "n02-Pug" / "n02_9"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = StanfordDogs(dogs)
    for _ in range(2):  # a failure is not remembered as an answer
        with pytest.raises(ValueError) as caught:
            _ = data.bounding_boxes
        assert str(caught.value) == f"Expected {path} to be an annotation in XML, but got: {got}."


@pytest.mark.slow
def test_annotations_that_are_deep_or_missing(dogs):
    path = dogs / "Annotation" / "n02-Pug" / "n02_9"
    path.write_text("<a>" * 140_000 + "</a>" * 140_000)
    assert StanfordDogs(dogs).bounding_boxes["n02-Pug/n02_9.jpg"] == ()
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        _ = StanfordDogs(dogs).bounding_boxes
    assert str(caught.value) == f"Expected an annotation at {path}, but there is none."


def test_dogs_are_downloaded_once(dogs, server, tmp_path, monkeypatch):
    archives = []
    for name, members in (
        ("images.tar", ["Images"]),
        ("annotation.tar", ["Annotation"]),
        ("lists.tar", ["train_list.mat", "test_list.mat"]),
    ):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for member in members:
                tar.add(dogs / member, member)
        server.files[name] = content.getvalue()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        md5 = hashlib.md5(content.getvalue()).hexdigest()
        archives.append(RemoteFile(url, len(content.getvalue()), md5))
    monkeypatch.setattr("recurrent_attention.data.dogs.ARCHIVES", tuple(archives))
    monkeypatch.setattr("recurrent_attention.data._fetching.archive._to_disk", lambda: None)
    root = tmp_path / "new"
    data = StanfordDogs(root, download=True, progress=False)
    assert data.folder == root / "stanford_dogs"
    assert data.names == StanfordDogs(dogs).names
    assert data.bounding_boxes == StanfordDogs(dogs).bounding_boxes
    assert len(StanfordDogs(root, "test", download=True)) == 2
    assert len(server.asked) == 3
    (data.folder / "Images" / "n02-Pug" / "n02_1.jpg").unlink()  # of the other split
    with pytest.raises(FileNotFoundError) as caught:
        StanfordDogs(root, download=True)
    assert str(caught.value) == (
        f"Expected {data.folder} to hold the 5 pictures that its lists name, but 1 are missing, "
        "the first n02-Pug/n02_1.jpg. Remove or rename the folder and call again."
    )
