"""Pictures of other libraries' data sets: what they show is what the same files show."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import make, photo
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import ToTensor

from recurrent_attention.data import (
    PictureFolder,
    PictureItems,
    Pictures,
    TwoStreamDataset,
    check_pictures,
    read_boxes,
    write_boxes,
)
from recurrent_attention.images import open_picture
from recurrent_attention.images.reading import picture_size
from recurrent_attention.training import Recipe, fit, propose_boxes_for

LABELS = [1, 0, 2, 1, 0, 2, 2]
NAMES = ["auk", "coot", "wren"]


@pytest.fixture
def files(tmp_path):
    """Seven files of several kinds, one of them turned by its EXIF data, one of 16 bits."""
    root = tmp_path / "files"
    for name in NAMES:
        (root / name).mkdir(parents=True)
    pictures = [photo(number, (48 + number, 40)) for number in range(len(LABELS))]
    paths = [root / NAMES[label] / f"{number}.png" for number, label in enumerate(LABELS)]
    paths[1], paths[2] = paths[1].with_suffix(".jpg"), paths[2].with_suffix(".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    pictures[0] = pictures[0].convert("L")
    pictures[3] = pictures[3].convert("RGBA")
    pictures[3].putalpha(photo(9, pictures[3].size).convert("L"))
    pictures[4] = pictures[4].convert("P")
    deep = np.asarray(pictures[5].convert("L")).astype(np.uint16) * 257
    pictures[5] = Image.fromarray(deep)
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path, **({"exif": exif} if path.suffix == ".jpg" else {}))
    return paths


def as_files(paths, mode="RGB"):
    """The independent check: the same pictures by the reader of files."""
    return Pictures("/", [p.as_posix().lstrip("/") for p in paths], LABELS, NAMES, mode=mode)


def table_of(files):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = {"label": datasets.ClassLabel(names=NAMES), "picture": datasets.Image()}
    rows = {"label": LABELS, "picture": [str(path) for path in files]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def table_with_bytes(files):
    """The files inside the table, as in Parquet files of the Hugging Face hub."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = {"label": datasets.ClassLabel(names=NAMES), "picture": datasets.Image()}
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    rows = {"label": LABELS, "picture": rows}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


class Pairs(Dataset):
    """Somebody's own data set; it tells how often each of its items was asked for."""

    def __init__(self, files, make, labels=LABELS):
        self.files, self.make, self.labels, self.asked = files, make, labels, []

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.make(self.files[index]), self.labels[index]


class WithTargets(Pairs):
    """As torchvision's CIFAR10 is."""

    classes = NAMES
    targets = torch.tensor(LABELS)


def pixels_of_a_file(path):
    return np.asarray(open_picture(path))


SOURCES = {
    "table": table_of,
    "table with bytes": table_with_bytes,
    "PIL images": lambda files: Pairs(files, Image.open),
    "paths": lambda files: Pairs(files, Path),
    "texts": lambda files: Pairs(files, str),
    "bytes": lambda files: Pairs(files, Path.read_bytes),
    "arrays": lambda files: Pairs(files, pixels_of_a_file),
    "targets": lambda files: WithTargets(files, Image.open),
    "list": lambda files: list(zip(files, LABELS, strict=True)),
    "words": lambda files: [(file, file.parent.name) for file in files],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_pictures_and_labels_are_those_of_the_files(files, kind):
    pictures, expected = PictureItems(SOURCES[kind](files)), as_files(files)
    assert pictures.labels == expected.labels
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(1)).tolist()
    for index in [*order, *reversed(order)]:
        picture, label = pictures[index]
        assert picture.mode == "RGB"
        assert label == LABELS[index]
        assert np.array_equal(np.asarray(picture), np.asarray(expected.open(index)))
        assert torch.equal(pictures.pixels(index), expected.pixels(index))
        assert pictures.size(index) == expected.size(index)
    assert pictures.names[5] == "item-000005"
    named = kind in ("table", "table with bytes", "targets", "words")
    assert pictures.class_names == (tuple(NAMES) if named else ("0", "1", "2"))


@pytest.mark.parametrize("kind", ["table", "table with bytes", "paths", "bytes"])
def test_files_keep_what_only_files_have(files, kind):
    """Their digest, under which features are cached, and a JPEG decoded at a part of its size."""
    pictures, expected = PictureItems(SOURCES[kind](files)), as_files(files)
    for index in range(len(files)):
        assert pictures.content(index) == expected.content(index)
        assert torch.equal(pictures.pixels(index, reduction=2), expected.pixels(index, reduction=2))
    assert pictures.pixels(1, reduction=2).shape[1:] == (25, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("kind", ["table with bytes", "PIL images", "paths"])
def test_modes(files, kind, mode):
    pictures, expected = PictureItems(SOURCES[kind](files)).in_mode(mode), as_files(files, mode)
    for index in range(len(files)):
        assert torch.equal(pictures.pixels(index), expected.pixels(index))


def test_image_folder_of_torchvision(files):
    root = files[0].parents[1]
    expected = PictureFolder(root)
    for data in (ImageFolder(root), ImageFolder(root, transform=ToTensor())):
        pictures = PictureItems(data)
        assert (pictures.labels, pictures.class_names) == (expected.labels, expected.class_names)
        for index in range(len(expected)):
            assert torch.equal(pictures.pixels(index), expected.pixels(index))
            assert pictures.path(index) == expected.path(index)
    part = PictureItems(Subset(ImageFolder(root), [5, 2, 3]))
    assert part.names == ("item-000000", "item-000001", "item-000002")
    for index, place in enumerate((5, 2, 3)):
        assert part.labels[index] == expected.labels[place]
        assert part.path(index) == expected.path(place)


def test_a_loader_of_ones_own_is_kept(tmp_path):
    for seed, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.asarray(photo(seed)))
    pictures = PictureItems(DatasetFolder(tmp_path, np.load, (".npy",)))
    for index, name in enumerate(NAMES):
        expected = np.load(tmp_path / name / "x.npy")
        assert np.array_equal(np.asarray(pictures.open(index)), expected)
        assert pictures.size(index) == expected.shape[1::-1]
        assert pictures.path(index) == tmp_path / name / "x.npy"
    assert len({pictures.content(index) for index in range(3)}) == 3


def test_labels_of_a_table_are_read_without_its_pictures(files):
    table = table_of(files)
    for file in files:
        file.unlink()
    assert PictureItems(table).labels == tuple(LABELS)


def test_items_are_gone_over_for_labels_only_if_nobody_knows_them(files):
    unknown, known = Pairs(files, str), WithTargets(files, str)
    PictureItems(unknown)
    assert unknown.asked == list(range(len(files)))
    PictureItems(known)
    told = Pairs(files, str)
    pictures = PictureItems(told, labels=np.array(LABELS), class_names=NAMES)
    assert (pictures.labels, pictures.class_names) == (tuple(LABELS), tuple(NAMES))
    assert known.asked == told.asked == []


def test_a_format_or_transform_of_a_table_is_left_out(files):
    table, expected = table_of(files), as_files(files)
    for changed in (table.with_format("numpy"), table.with_transform(lambda rows: 1 / 0)):
        pictures = PictureItems(changed)
        assert torch.equal(pictures.pixels(2), expected.pixels(2))


def test_columns_and_keys_by_name(files):
    table = table_of(files).rename_columns({"label": "species"})
    table = table.add_column("other", ["b", "a", "b", "a", "b", "a", "a"])
    assert PictureItems(table).labels == tuple(LABELS)
    by_word = PictureItems(table, label="other")
    assert (by_word.labels, by_word.class_names) == ((1, 0, 1, 0, 1, 0, 0), ("a", "b"))
    rows = [{"x": file, "y": label} for file, label in zip(files, LABELS, strict=True)]
    pictures = PictureItems(rows, image="x", label="y")
    assert pictures.labels == tuple(LABELS)
    assert torch.equal(pictures.pixels(3), as_files(files).pixels(3))
    triples = [(label, "?", file) for file, label in zip(files, LABELS, strict=True)]
    assert PictureItems(triples, image=2, label=0).path(4) == files[4]


def test_class_names_give_labels_in_words_their_order(files):
    items = [(file, file.parent.name) for file in files]
    pictures = PictureItems(items, class_names=["wren", "owl", "auk", "coot"])
    assert pictures.labels == tuple([2, 3, 0][label] for label in LABELS)


def test_names_stay_in_subsets_and_splits(files):
    pictures = PictureItems(Pairs(files, Image.open), prefix="bird")
    rest, held_out = pictures.split(0.4, seed=0)
    assert sorted(rest.names + held_out.names) == sorted(pictures.names)
    for part in (rest, held_out, pictures.subset([6, 2])):
        for index, name in enumerate(part.names):
            number = int(name.removeprefix("bird-"))
            assert part.labels[index] == LABELS[number]
            assert torch.equal(part.pixels(index), pictures.pixels(number))
            assert part.size(index) == pictures.size(number)


def test_arrays_of_other_channels():
    array = np.random.default_rng(0).integers(0, 255, (30, 40, 5), dtype=np.uint8)
    pictures = PictureItems([(array, 0), (array[..., 0], 0), (array[..., :1], 0)])
    assert pictures.for_channels(5) is pictures
    assert torch.equal(pictures.pixels(0), torch.from_numpy(array).permute(2, 0, 1))
    assert pictures.size(0) == (40, 30)
    for index in (1, 2):
        gray = torch.from_numpy(array[..., 0])
        assert torch.equal(pictures.pixels(index), gray.expand(3, -1, -1))
        assert torch.equal(pictures.in_mode("L").pixels(index), gray[None])


def boxes_for(pictures):
    return {name: [[2, 2, 30, 30], [5, 9, 38, 38]] for name in pictures.names}


@pytest.mark.parametrize("kind", ["table with bytes", "PIL images"])
def test_views_are_those_of_the_files_also_in_workers(files, kind, tmp_path):
    pictures, expected = PictureItems(SOURCES[kind](files)), as_files(files)
    write_boxes(tmp_path / "boxes.json", boxes_for(pictures))
    boxes = read_boxes(tmp_path / "boxes.json", pictures)
    sizes = {"image_size": 32, "patch_size": 16, "num_patches": 2}
    data = TwoStreamDataset(pictures, boxes, **sizes)
    data = pickle.loads(pickle.dumps(data))
    right = TwoStreamDataset(expected, boxes_for(expected), **sizes)
    loader = DataLoader(data, batch_size=3, num_workers=2)
    for batch, wanted in zip(loader, DataLoader(right, batch_size=3), strict=True):
        for found, value in zip(batch, wanted, strict=True):
            assert torch.equal(found, value)


@pytest.mark.slow
def test_frozen_features_are_cached_by_content(files, tmp_path, monkeypatch):
    model = make(num_classes=3, class_names=NAMES, num_patches=2)
    quiet = {"device": "cpu", "progress": False, "cache_dir": tmp_path / "cache"}
    boxes = {}
    for kind in ("table with bytes", "PIL images"):
        pictures = PictureItems(SOURCES[kind](files), class_names=NAMES)
        boxes[kind] = propose_boxes_for(model, pictures, **quiet)
    expected = propose_boxes_for(model, as_files(files), device="cpu", progress=False)
    for found in boxes.values():
        assert list(found) == list(pictures.names)
        for box, value in zip(found.values(), expected.values(), strict=True):
            assert torch.equal(box, value)
    data = TwoStreamDataset.for_model(model, pictures, boxes["PIL images"])
    recipe = Recipe(epochs=1, freeze=True, batch_size=2)
    first = fit(make(num_classes=3), data, data, recipe=recipe, **quiet)
    monkeypatch.setattr(PictureItems, "pixels", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(PictureItems, "content", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it is asked for what the keys are made of
        fit(make(num_classes=3), data, data, recipe=recipe, **quiet)
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(
        TwoStreamDataset, "fixed_views", lambda self, index: asked.append(index) or 1 / 0
    )
    again = fit(make(num_classes=3), data, data, recipe=recipe, **quiet)
    assert asked == []
    losses = [record["train_loss"] for record in first.history]
    assert [record["train_loss"] for record in again.history] == losses


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_can_be_read(files, num_workers):
    files[2].write_bytes(files[2].read_bytes()[:300])
    files[4].write_text("no picture")
    files[5].unlink()
    state = torch.get_rng_state()
    pictures = PictureItems(Pairs(files, str), labels=LABELS)
    kept, bad = pictures.readable(num_workers=num_workers, progress=False)
    assert kept.names == tuple(f"item-00000{n}" for n in (0, 1, 3, 6))
    assert [str(found.path) for found in bad] == [f"item-00000{n}" for n in (2, 4, 5)]
    assert "in none of the formats" in bad[1].reason
    assert bad[2].reason == (
        f"Expected a picture at {files[5]} (item-000005), but there is no file"
    )
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="Expected `num_workers` to be at least 0, but got -1."):
        pictures.readable(num_workers=-1)


def test_a_check_needs_files(files):
    report = check_pictures(PictureItems(Pairs(files, str)), progress=False)
    assert report.ok
    with pytest.raises(ValueError) as caught:
        check_pictures(PictureItems(Pairs(files, Image.open)), progress=False)
    assert str(caught.value) == (
        "Expected a picture in a file, but item-000000 is a PIL image. Take `open` or `pixels`, "
        "which need no file."
    )
    with pytest.raises(ValueError, match="but item-000001 is the bytes of one"):
        PictureItems(table_with_bytes(files)).path(1)


PICTURE = Image.new("RGB", (9, 9))


class Endless(Dataset):
    def __getitem__(self, index):
        return PICTURE, 0


@pytest.mark.parametrize(
    ("items", "arguments", "kind", "sentence"),
    [
        (
            "birds", {}, TypeError,
            "Expected `items` to be a data set, but got 'birds'. For a folder of pictures take "
            "PictureFolder.",
        ),
        (
            {"train": [], "test": []}, {}, TypeError,
            "Expected `items` to be one data set, but got a dict of train, test. Pass one of its "
            "parts.",
        ),
        (
            iter([(PICTURE, 0)]), {}, TypeError,
            "Expected `items` to have a length and to be indexed, but got list_iterator. Make a "
            "list of it: list(items).",
        ),
        (
            Endless(), {}, TypeError,
            "Expected `items` to have a length and to be indexed, but got Endless. Make a list of "
            "it: list(items).",
        ),
        (
            [PICTURE], {}, TypeError,
            "Expected items (image, label), but item-000000 is of type Image. Give pairs, or "
            "mappings with image= and label= to name the keys.",
        ),
        (
            [(PICTURE, 0), (PICTURE,)], {}, ValueError,
            "Expected items with 1, but item-000001 has 1 places. Say where picture and label "
            "are: image=..., label=....",
        ),
        (
            [{"img": PICTURE, "y": 0}], {}, ValueError,
            "Expected items with 1, but item-000000 has the keys img, y. Say where picture and "
            "label are: image=..., label=....",
        ),
        (
            [(PICTURE, 0), (PICTURE, 0)], {"labels": [0]}, ValueError,
            "Expected `labels` to hold one for each of the 2 items, but got 1.",
        ),
        (
            [(PICTURE, "owl")], {"class_names": ["auk"]}, ValueError,
            "Expected labels among the 1 class names (auk), but got 'owl'.",
        ),
        (
            [(PICTURE, 0), (PICTURE, None)], {}, TypeError,
            "Expected `labels` to hold class indices, but got None for item-000001.",
        ),
        (
            [(PICTURE, 0), (PICTURE, -1)], {}, ValueError,
            "Expected `labels` to be class indices in [0, 1), one for each of the 1 class names, "
            "but got -1 for item-000001.",
        ),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused_in_one_sentence(items, arguments, kind, sentence):
    with pytest.raises(kind) as caught:
        PictureItems(items, **arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("picture", "kind", "sentence"),
    [
        (
            torch.zeros(3, 9, 9, dtype=torch.uint8), TypeError,
            "Expected item-000001 to be a PIL image, a path, the bytes of a file or an array of "
            "uint8, but got a Tensor. Leave its transform out, or give (h, w, c) as an array.",
        ),
        (
            None, TypeError,
            "Expected item-000001 to be a PIL image, a path, the bytes of a file or an array of "
            "uint8, but got None.",
        ),
        (
            np.zeros((9, 9, 3)), ValueError,
            "Expected item-000001 to be an array (h, w) or (h, w, c) of uint8, but got float64 in "
            "shape (9, 9, 3).",
        ),
        (
            np.zeros((3, 9, 8), np.uint8), ValueError,
            "Expected item-000001 to be an array (h, w) or (h, w, c) of uint8, but got uint8 in "
            "shape (3, 9, 8). Give array.transpose(1, 2, 0).",
        ),
        (
            b"", ValueError,
            "Expected a readable picture in item-000001, but got: an empty file.",
        ),
        (
            "nowhere.png", FileNotFoundError,
            "Expected a picture at nowhere.png (item-000001), but there is no file.",
        ),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_one_sentence(picture, kind, sentence):
    pictures = PictureItems([(PICTURE, 0), (picture, 0)])
    for read in (pictures.open, pictures.pixels, pictures.size):
        with pytest.raises(kind) as caught:
            read(1)
        assert str(caught.value) == sentence


def test_columns_that_cannot_be_told_apart(files):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    table = table_of(files)
    rows = {"text": ["a", "b"], "label": [0, 1]}
    twice = table.add_column("more", [0] * 7).cast_column("more", table.features["label"])
    for found, arguments, sentence in (
        (
            datasets.Dataset.from_dict(rows), {"image": "text"},
            "Expected `items` to have one column of the feature ClassLabel, but 0 of text, label "
            "are. Name it: label=....",
        ),
        (
            datasets.Dataset.from_dict(rows), {"label": "label"},
            "Expected `items` to have one column of the feature Image, but 0 of text, label are. "
            "Name it: image=....",
        ),
        (
            twice, {},
            "Expected `items` to have one column of the feature ClassLabel, but 2 of label, "
            "picture, more are (label, more). Name it: label=....",
        ),
        (
            table, {"image": "img"},
            "Expected `image` to be one of the columns label, picture, but got 'img'.",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            PictureItems(found, **arguments)
        assert str(caught.value) == sentence
    with pytest.raises(TypeError, match="but got a DatasetDict of train, test. Pass one of its"):
        PictureItems(datasets.DatasetDict(train=table, test=table))
    with pytest.raises(TypeError, match="to be indexed, but got IterableDataset. Make a list"):
        PictureItems(table.to_iterable_dataset())


def test_open_files_say_their_size(files):
    for file in files:
        opened = io.BytesIO(file.read_bytes())
        assert picture_size(opened) == picture_size(file) == open_picture(file).size
        assert opened.tell() == 0
