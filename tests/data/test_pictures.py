"""Pictures: one door to their pixels, what a folder means, and what names, labels, boxes become."""

import os
import pickle
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.data import (
    PictureFolder,
    Pictures,
    TwoStreamDataset,
    check_pictures,
    pictures_under,
    read_boxes,
    write_boxes,
)
from recurrent_attention.data.boxes import Boxes
from recurrent_attention.images.reading import open_picture
from recurrent_attention.images.views import cut_view, pixels_of

SIZES = {"image_size": 32, "patch_size": 16}


def noise(seed=0, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(root / name, format="JPEG" if name.endswith("jfif") else None)
    return root


@pytest.fixture
def four(tmp_path):
    return PictureFolder(write(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png"))


# One door


class Turned(Pictures):
    """Overrides `open` alone; the picture is higher than wide then."""

    def open(self, index, *, reduction=1):
        return super().open(index).transpose(Image.Transpose.ROTATE_90)


def test_pictures_that_are_read_by_a_loader(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).random((20, 30), dtype=np.float32)
        Image.fromarray(pixels).save(tmp_path / f"{number}.tif")
    (tmp_path / "1.tif").write_bytes(b"no picture")

    def load(path):
        return (255 * np.asarray(Image.open(path))).astype(np.uint8)

    names = [f"{number}.tif" for number in range(3)]
    pictures = Pictures(tmp_path, names, [0, 0, 0], ["a"], loader=load)
    for workers in (0, 2):
        kept, bad = pictures.readable(num_workers=workers, progress=False)
        assert kept.names == ("0.tif", "2.tif")
        assert [one.path for one in bad] == [tmp_path / "1.tif"]
    with pytest.raises(ValueError) as caught:
        check_pictures(pictures, progress=False)
    assert str(caught.value) == (
        "Expected `data` of files that `open_picture` reads, but these pictures have a `loader`, "
        "or an `open` of their own. Their method `readable` finds those that cannot be read."
    )


def test_pictures_without_files_are_readable():
    class Drawn(Pictures):
        def open(self, index, *, reduction=1):
            return noise(index)

    drawn = Drawn(".", ["0", "1"], [0, 0], ["a"])
    kept, bad = drawn.readable(progress=False)
    assert (kept.names, bad) == (("0", "1"), [])


def test_modes_that_there_are():
    with pytest.raises(ValueError) as caught:
        Pictures(".", ["0.png"], [0], ["a"], mode="gray")
    assert str(caught.value) == "Expected `mode` to be one of L, RGB, RGBA, but got 'gray'."


def test_a_fraction_of_a_small_jpeg(tmp_path):
    noise(size=(6, 40)).save(tmp_path / "0.jpg")
    assert open_picture(tmp_path / "0.jpg", reduction=8).size == (2, 10)


def test_what_open_gives_is_what_everybody_sees(four):
    turned = Turned(four.root, four.names, four.labels, four.class_names)
    picture = turned.open(0)
    assert picture.size == turned.size(0) == (30, 40)
    assert turned[0][0].tobytes() == picture.tobytes()
    assert torch.equal(turned.pixels(0), pixels_of(picture))
    assert turned.content(0) != four.content(0)
    data = TwoStreamDataset(turned, {name: [[0, 0, 30, 40]] for name in turned.names}, **SIZES)
    whole = cut_view(pixels_of(picture), torch.tensor([0, 0, 30, 40]), 16)
    assert torch.equal(data[0].patches[0], whole)


def test_another_door_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError) as caught:

        class Half(Pictures):
            def __getitem__(self, index):
                return super().__getitem__(index)

    assert str(caught.value) == (
        "Expected Half to override `open`, through which views, sizes and checks see a picture, "
        "but it overrides `__getitem__` alone."
    )


class InMemory(Pictures):
    def __init__(self, images, labels, class_names):
        super().__init__(".", [f"{i}.png" for i in range(len(images))], labels, class_names)
        self.images = images

    def open(self, index, *, reduction=1):
        return self.images[int(self.names[index].removesuffix(".png"))]


def test_pictures_without_files():
    images = [noise(0), noise(1, (20, 50)), noise(2, mode="L")]
    pictures = InMemory(images, [0, 1, 0], ["a", "b"])
    assert [pictures.size(index) for index in range(3)] == [(40, 30), (20, 50), (40, 30)]
    some = pictures.subset([2, 1])
    assert [some.size(index) for index in range(2)] == [(40, 30), (20, 50)]
    assert some.content(1) == pictures.content(1) != pictures.content(0)
    assert torch.equal(pictures.pixels(2), pixels_of(images[2].convert("RGB")))
    assert pictures.in_mode("L").pixels(0).shape == (1, 30, 40)


def test_a_loader_opens_what_nothing_else_does(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (30, 40, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    pictures = Pictures(tmp_path, ["x.npy"], [0], ["a"], loader=np.load)
    assert pictures.size(0) == (40, 30)
    assert torch.equal(pictures.pixels(0), torch.from_numpy(array).permute(2, 0, 1))
    assert pictures.for_channels(5) is pictures
    gray = Pictures(tmp_path, ["x.npy"], [0], ["a"], loader=lambda path: np.load(path)[..., 0])
    assert torch.equal(gray.pixels(0), torch.from_numpy(array[..., 0]).expand(3, -1, -1))
    assert torch.equal(
        gray.for_channels(1).pixels(0), torch.from_numpy(array[..., :1]).permute(2, 0, 1)
    )
    wrong = Pictures(tmp_path, ["x.npy"], [0], ["a"], loader=str)
    with pytest.raises(TypeError) as caught:
        wrong[0]
    assert str(caught.value) == (
        "Expected `loader` to return a PIL image or an array of uint8 for "
        f"{tmp_path / 'x.npy'}, but got str."
    )
    floats = Pictures(tmp_path, ["x.npy"], [0], ["a"], loader=lambda path: np.load(path) / 255)
    with pytest.raises(ValueError, match="of uint8, but got float64 in shape"):
        floats.pixels(0)


def test_files_have_no_mode_of_five_channels(four):
    with pytest.raises(ValueError) as caught:
        four.for_channels(5)
    assert str(caught.value) == (
        "Expected a model of 1, 3 or 4 channels to open pictures for, but got 5. Pass arrays (h, "
        "w, 5) of uint8, or a `loader` that returns them: Pictures(..., loader=...)."
    )


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_data_set_for_a_model(tmp_path, channels, mode):
    noise(0, mode="RGBA" if mode == "RGBA" else "RGB").save(tmp_path / "x.png")
    pictures = Pictures(tmp_path, ["x.png"], [0], ["a"])
    model = TwoStreamClassifier("test_vit", 2, in_chans=channels, num_patches=2, **SIZES)
    boxes = {"x.png": [[0, 0, 20, 20], [10, 5, 40, 30], [0, 0, 9, 9]]}
    data = TwoStreamDataset.for_model(model, pictures, boxes)
    sample = data[0]
    assert sample.image.shape == (channels, 32, 32)
    assert sample.patches.shape == (2, channels, 16, 16)
    look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
    pixels = pixels_of(Image.open(tmp_path / "x.png").convert(mode))
    assert torch.equal(sample.image, cut_view(pixels, torch.tensor([0, 0, 40, 30]), 32, **look))
    training = TwoStreamDataset.for_model(
        model, pictures, boxes, train=True, num_patches=3, flip=False, crop_scale=(0.5, 1)
    )
    told = (training.train, training.num_patches, training.flip, training.crop_scale)
    assert told == (True, 3, False, (0.5, 1))


# What a folder means


def test_hidden_folders_and_thumbnails_are_no_pictures(tmp_path, recwarn):
    write(tmp_path, "wren/a.png", "wren/.ipynb_checkpoints/a-checkpoint.png", "finch/b.png")
    write(tmp_path, "wren/@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/wren/c.png")
    (tmp_path / "wren" / "album.jpg").mkdir()
    (tmp_path / "wren" / "Thumbs.db").write_bytes(b"x")
    assert PictureFolder(tmp_path).names == ("finch/b.png", "wren/a.png")
    assert pictures_under(tmp_path / "wren") == [tmp_path / "wren" / "a.png"]
    assert not recwarn


def test_every_format_that_is_read_is_listed(tmp_path, monkeypatch, recwarn):
    names = ["a/0.png", "a/1.gif", "a/2.jfif", "a/3.tif", "a/4.webp", "a/5.bmp", "a/6.ppm"]
    write(tmp_path, *names)
    noise(mode="L").save(tmp_path / "a" / "7.pgm")
    monkeypatch.setitem(Image.EXTENSION, ".heicx", "PNG")  # as pillow_heif registers .heic
    noise().save(tmp_path / "a" / "8.HEICX", "PNG")
    pictures = PictureFolder(tmp_path)
    assert pictures.names == (*names, "a/7.pgm", "a/8.HEICX")
    for index in range(len(pictures)):
        assert pictures[index][0].mode == "RGB"
    assert not recwarn


def test_what_is_left_out_is_said_once(tmp_path):
    write(tmp_path, "a/0.png", "b/0.png", "loose.png")
    for name in ("1.xyz", "2.xyz", "3.xyz", "\x1b[2J.txt"):
        (tmp_path / "b" / name).write_bytes(b"?")
    (tmp_path / "b" / "lost.png").symlink_to("nowhere")
    for name in "cd":
        (tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match="Left out") as said:
        pictures = PictureFolder(tmp_path)
    assert [str(warning.message) for warning in said] == [
        f"Left out of {tmp_path}: 2 classes without pictures (c, d), 5 files that are no pictures "
        r"(b/\x1b[2J.txt, b/1.xyz, b/2.xyz, ...), 1 picture in no class's folder (loose.png)."
    ]
    assert pictures.class_names == ("a", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Left out of .*: 5 files"):  # c is known, and empty
            PictureFolder(tmp_path, class_names=("a", "b", "c", "d"))


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("val", "train", "test"):
        write(tmp_path, f"{part}/a/0.png", f"{part}/b/0.png")
    with pytest.raises(ValueError) as caught:
        PictureFolder(tmp_path)
    assert str(caught.value) == (
        f"Expected {tmp_path} to hold one folder for each class, but it holds the parts train, "
        f"val, test of a data set. Read each of them by itself, such as {tmp_path / 'train'}."
    )
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="the parts train, val, test of a data set"):
        PictureFolder(tmp_path)
    assert PictureFolder(tmp_path / "train").class_names == ("a", "b")


@pytest.mark.parametrize(
    "names",
    [
        ("test/0.png", "train/0.png"),  # a train, and a test card
        ("bus/0.png", "test/deep/0.png"),
        ("bus/0.png", "train/deep/0.png", "tram/0.png"),
    ],
)
def test_classes_may_be_called_like_parts(tmp_path, names):
    pictures = PictureFolder(write(tmp_path, *names))
    assert pictures.class_names == tuple(sorted(name.split("/")[0] for name in names))


@pytest.mark.skipif(os.name != "posix", reason="pipes lie in folders on POSIX alone")
def test_a_pipe_among_the_pictures_is_left_out(tmp_path):
    write(tmp_path, "a/0.png")
    os.mkfifo(tmp_path / "a" / "x.png")
    with pytest.warns(UserWarning, match=r"1 file that is no picture \(a/x.png\)"):
        assert PictureFolder(tmp_path).names == ("a/0.png",)
    os.mkfifo(tmp_path / "boxes.json")
    for read in (read_boxes,):
        with pytest.raises(ValueError) as caught:
            read(tmp_path / "boxes.json", Pictures(tmp_path, [], [], []))
        assert str(caught.value) == (
            f"Expected a file of boxes at {tmp_path / 'boxes.json'}, but it is a pipe."
        )


# Arguments


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1],
        (0, 0, 1, 1),
        torch.tensor([0, 0, 1, 1]),
        np.array([0, 0, 1, 1], np.int16),
        [np.int64(0), np.int64(0), torch.tensor(1), 1],
        iter([0, 0, 1, 1]),
    ],
)
def test_labels_become_whole_numbers(four, labels):
    pictures = Pictures(four.root, four.names, labels, ["a", "b"])
    assert pictures.labels == (0, 0, 1, 1)
    assert {type(label) for label in pictures.labels} == {int}
    assert [len(part) for part in pictures.split(0.5, seed=0)] == [2, 2]


@pytest.mark.parametrize(
    ("labels", "error", "sentence"),
    [
        (
            [1, 1, 2, 2],
            ValueError,
            "Expected `labels` to be class indices in [0, 2), one for each of the 2 class names, "
            "but got 2 for b/0.png. They count from 1: subtract 1 from each.",
        ),
        (
            [0, -1, 0, 1],
            ValueError,
            "Expected `labels` to be class indices in [0, 2), one for each of the 2 class names, "
            "but got -1 for a/1.png.",
        ),
        (
            [0.0, 0, 1, 1],
            TypeError,
            "Expected `labels` to hold class indices, but got 0.0 for a/0.png.",
        ),
        (
            ["a", "a", "b", "b"],
            TypeError,
            "Expected `labels` to hold class indices, but got 'a' for a/0.png.",
        ),
        (
            [0, 1],
            ValueError,
            "Expected `names` and `labels` to be equally many, but got 4 and 2.",
        ),
        (
            torch.tensor(3),
            ValueError,
            "Expected `names` and `labels` to be equally many, but got 4 and 1.",
        ),
    ],
)
def test_labels_that_are_none(four, labels, error, sentence):
    with pytest.raises(error) as caught:
        Pictures(four.root, four.names, labels, ["a", "b"])
    assert str(caught.value) == sentence


def test_names_may_be_paths_and_class_names_are_texts(four):
    names = [PurePosixPath(name) for name in four.names]
    assert Pictures(str(four.root), names, four.labels, four.class_names).names == four.names
    with pytest.raises(TypeError) as caught:
        Pictures(four.root, [0, 1, 2, 3], four.labels, four.class_names)
    assert str(caught.value) == "Expected `names` to hold relative file names, but got 0."
    with pytest.raises(TypeError) as caught:
        Pictures(four.root, four.names, four.labels, [7, 8])
    assert str(caught.value) == (
        "Expected `class_names` to hold a text for each class, but got 7. Numbers: list(map(str, "
        "numbers))."
    )
    with pytest.raises(TypeError, match="Expected `fraction` to be a number, but got '0.5'"):
        four.split("0.5", seed=0)


ROWS = [[2, 2, 30, 28], [0, 0, 10, 10]]


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda rows: torch.tensor(rows).double()]
)
def test_boxes_may_be_lists_arrays_or_tensors(four, tmp_path, kind):
    boxes = {name: kind(ROWS) for name in four.names}
    data = TwoStreamDataset(four, boxes, **SIZES)
    assert torch.equal(data.boxes["b/0.png"], torch.tensor(ROWS).float())
    write_boxes(tmp_path / "boxes.json", boxes)
    found = read_boxes(tmp_path / "boxes.json", four)
    assert torch.equal(found["b/0.png"], torch.tensor(ROWS).float())


def test_boxes_that_are_none(four):
    for rows, error, sentence in (
        ([], ValueError, "to have shape (n, 4) with at least one box, but got (0,)."),
        ([1, 2, 3, 4], ValueError, "to have shape (n, 4) with at least one box, but got (4,)."),
        ("wren", TypeError, "to be rows of numbers (x0, y0, x1, y1), but got 'wren'."),
        (
            [[1, 2], [3]],
            TypeError,
            "to be rows of numbers (x0, y0, x1, y1), but got [[1, 2], [3]].",
        ),
    ):
        with pytest.raises(error) as caught:
            TwoStreamDataset(four, dict.fromkeys(four.names, rows), **SIZES)
        assert str(caught.value) == f"Expected the boxes of a/0.png {sentence}"
    with pytest.raises(TypeError) as caught:
        TwoStreamDataset(four, ROWS, **SIZES)
    assert str(caught.value) == (
        "Expected `boxes` to map each picture's relative file name to its boxes, but got list."
    )
    with pytest.raises(TypeError) as caught:
        TwoStreamDataset(ImageFolder(str(four.root)), {}, **SIZES)
    assert str(caught.value) == (
        "Expected `pictures` to be Pictures, such as PictureFolder(root), but got ImageFolder."
    )


def test_boxes_are_two_tensors_for_any_number_of_pictures():
    names = [f"{number}.png" for number in range(50)]
    rows = {name: torch.rand(1 + number % 3, 4) for number, name in enumerate(names)}
    boxes = Boxes(rows | {"other.png": torch.rand(1, 4)}, names)
    assert list(boxes) == names
    assert all(torch.equal(boxes[name], rows[name]) for name in names)
    assert sum(isinstance(value, torch.Tensor) for value in vars(boxes).values()) == 2
    again = pickle.loads(pickle.dumps(boxes))
    assert all(torch.equal(again[name], rows[name]) for name in names)
    with pytest.raises(KeyError):
        boxes["other.png"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="file descriptors are counted on POSIX")
def test_spawned_workers_with_more_pictures_than_file_descriptors(tmp_path):
    resource = pytest.importorskip("resource")
    write(tmp_path, "a/0.png")
    for number in range(300):
        (tmp_path / "a" / f"x{number}.png").symlink_to("0.png")
    pictures = PictureFolder(tmp_path)
    data = TwoStreamDataset(pictures, dict.fromkeys(pictures.names, ROWS), **SIZES)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, limits[1])
    )
    try:
        loader = DataLoader(data, 256, num_workers=1, multiprocessing_context="spawn")
        assert sum(len(batch.label) for batch in loader) == 301
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_class_of_one_picture_is_missing_from_what_is_split_off(tmp_path):
    pictures = PictureFolder(write(tmp_path, "a/0.png", "b/0.png", "c/0.png", "c/1.png"))
    with pytest.warns(UserWarning, match="one picture") as said:
        rest, held_out = pictures.split(0.5, seed=0)
    assert str(said[0].message) == (
        "2 of 3 classes have one picture, which cannot be split: a, b. What is split off lacks "
        "them."
    )
    assert said[0].filename == __file__
    assert (len(rest), held_out.labels) == (3, (2,))


def test_relative_names_of_any_bytes(tmp_path):
    """A zip from Windows can leave names that are no UTF-8."""
    if os.name != "posix":
        pytest.skip("file names are text there")
    write(tmp_path, "a/0.png")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png"))
    noise(1).save(odd)
    pictures = PictureFolder(tmp_path)
    assert len(pictures) == 2
    boxes = dict.fromkeys(pictures.names, ROWS)
    write_boxes(tmp_path / "boxes.json", boxes)
    assert set(read_boxes(tmp_path / "boxes.json", pictures)) == set(pictures.names)
    with pytest.raises(ValueError, match=r"for a/\\udcff.png|of a/\\udcff.png") as caught:
        TwoStreamDataset(pictures, {"a/0.png": ROWS}, **SIZES)
    str(caught.value).encode("utf-8")
