"""The drawn birds: one mark tells the class and nothing else does; the files are CUB's."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from drawn_birds import SyntheticBirds, writer
from drawn_birds.drawing import MARKS, Drawing, Mark, draw_bird
from drawn_birds.writer import PART_NAMES, class_name, write_synthetic_birds
from numpy.typing import NDArray
from PIL import Image

SIZE = (192, 144)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def table(root: Path, name: str) -> list[list[str]]:
    return [line.split(" ") for line in (root / name).read_text().splitlines()]


def write(root: Path, **changes: int) -> Path:
    arguments = {"num_classes": 3, "train_per_class": 3, "test_per_class": 2, "picture_size": 64}
    write_synthetic_birds(root, **(arguments | changes), progress=False)
    return root


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds") / "set"
    return write(root, num_classes=10, train_per_class=5, test_per_class=4, boxes_per_picture=6)


def mark_place(drawing: Drawing, mark: Mark) -> tuple[float, float]:
    ending = {"bill": "beak", "eye_ring": "eye", "wing_bar": "wing", "crown": "crown"}
    name = ending.get(mark.part, "tail")
    (place,) = (xy for part, xy in drawing.parts.items() if part.endswith(name))
    return place


def near(drawing: Drawing, mark: Mark) -> NDArray[np.bool_]:
    """Return the pixels within a sixth of the bird's longer side from the mark."""
    x0, y0, x1, y1 = drawing.bounding_box
    x, y = mark_place(drawing, mark)
    rows, columns = np.mgrid[: drawing.image.height, : drawing.image.width]
    close: NDArray[np.bool_] = np.hypot(columns - x, rows - y) < max(x1 - x0, y1 - y0) / 6 + 2
    return close


@pytest.mark.parametrize("seed", range(4))
def test_only_the_mark_differs_between_classes(seed: int) -> None:
    drawings = [draw_bird(mark, size=SIZE, rng=random.Random(seed)) for mark in MARKS]
    pixels = [np.asarray(drawing.image, dtype=int) for drawing in drawings]
    for a in range(len(MARKS)):
        for b in range(a):
            assert drawings[a].bounding_box == drawings[b].bounding_box
            assert drawings[a].parts == drawings[b].parts
            changed = abs(pixels[a] - pixels[b]).max(axis=2)
            first, second = near(drawings[a], MARKS[a]), near(drawings[a], MARKS[b])
            assert changed[~(first | second)].max() == 0
            # Plainly visible: some pixels differ by more than a quarter of the whole range.
            assert (changed[first] > 64).sum() >= 5
            assert (changed[second] > 64).sum() >= 5


def test_every_mark_leaves_the_random_stream_at_the_same_place() -> None:
    states = []
    for mark in MARKS:
        rng = random.Random(5)
        draw_bird(mark, size=SIZE, rng=rng)
        states.append(rng.getstate())
    assert states == [states[0]] * len(MARKS)


def test_bounding_box_lies_in_the_picture_and_holds_the_parts() -> None:
    shares, mirrored = [], set()
    for seed in range(40):
        size = (128, 96) if seed % 2 else (96, 128)
        drawing = draw_bird(MARKS[seed % 10], size=size, rng=random.Random(seed))
        assert (drawing.image.size, drawing.image.mode) == (size, "RGB")
        x0, y0, x1, y1 = drawing.bounding_box
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        shares.append(max(x1 - x0, y1 - y0) / max(size))
        assert set(drawing.parts) <= set(PART_NAMES)
        for ending in ("eye", "wing"):
            assert sum(name.endswith(ending) for name in drawing.parts) == 1
        for x, y in drawing.parts.values():
            assert x0 <= x <= x1
            assert y0 <= y <= y1
        mirrored.add("left wing" in drawing.parts)
    assert min(shares) >= 0.27  # the widest do not fit at their share
    assert max(shares) <= 0.53 + 1e-9
    assert max(shares) - min(shares) > 0.15
    assert mirrored == {True, False}


def test_beak_lies_on_the_side_that_the_visible_wing_tells() -> None:
    for seed in range(40):
        parts = draw_bird(MARKS[0], size=(96, 64), rng=random.Random(seed)).parts
        eye = parts.get("right eye") or parts["left eye"]
        assert ("right eye" in parts) == (parts["beak"][0] > eye[0])
        assert ("right wing" in parts) == (parts["breast"][0] > parts["tail"][0])


def test_same_arguments_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    first, second = digests(write(tmp_path / "a")), digests(write(tmp_path / "b"))
    other = digests(write(tmp_path / "c", seed=1))
    assert first == second
    pictures = {digest for name, digest in first.items() if name.endswith(".jpg")}
    assert len(pictures) == 15
    assert pictures.isdisjoint(other.values())
    assert first["patches/train_patches.npy"] != other["patches/train_patches.npy"]


def test_more_pictures_or_classes_keep_the_earlier_ones(tmp_path: Path) -> None:
    few = digests(write(tmp_path / "few") / "images")
    more = digests(write(tmp_path / "more", train_per_class=5, num_classes=4) / "images")
    assert len(more) == 4 * 7
    assert few.items() < more.items()


def test_files_join_up(birds: Path) -> None:
    images = dict(table(birds, "images.txt"))
    labels = dict(table(birds, "image_class_labels.txt"))
    is_train = dict(table(birds, "train_test_split.txt"))
    classes = dict(table(birds, "classes.txt"))
    boxes = {row[0]: list(map(float, row[1:])) for row in table(birds, "bounding_boxes.txt")}
    ids = [str(i) for i in range(1, 91)]
    for rows in (images, labels, is_train, boxes):
        assert list(rows) == ids
    assert list(classes.values()) == [class_name(i) for i in range(10)]
    on_disk = {path.relative_to(birds / "images").as_posix() for path in birds.rglob("*.jpg")}
    assert set(images.values()) == on_disk
    assert all(images[i].split("/")[0] == classes[labels[i]] for i in ids)
    for label in classes:
        assert sum(is_train[i] == "1" for i in ids if labels[i] == label) == 5
        assert sum(is_train[i] == "0" for i in ids if labels[i] == label) == 4
    assert list(images.values()) != sorted(images.values())
    shapes = set()
    for i in ids:
        with Image.open(birds / "images" / images[i]) as picture:
            assert picture.format == "JPEG"
            width, height = picture.size
        assert max(width, height) == 64
        shapes.add((width, height))
        x, y, wide, high = boxes[i]
        assert min(x, y) >= 0
        assert x + wide <= width + 0.11  # one decimal is written, of the corner and of the side
        assert y + high <= height + 0.11
    assert len(shapes) >= 4


def test_part_files_are_cubs(birds: Path) -> None:
    lines = (birds / "parts" / "parts.txt").read_text().splitlines()
    assert lines == [f"{i} {name}" for i, name in enumerate(PART_NAMES, 1)]
    rows = table(birds, "parts/part_locs.txt")
    assert [row[:2] for row in rows] == [
        [str(i), str(p)] for i in range(1, 91) for p in range(1, 16)
    ]
    boxes = {row[0]: list(map(float, row[1:])) for row in table(birds, "bounding_boxes.txt")}
    for image, _, x, y, visible in rows:
        if visible == "1":
            left, top, wide, high = boxes[image]
            assert left - 0.2 <= float(x) <= left + wide + 0.2
            assert top - 0.2 <= float(y) <= top + high + 0.2
        else:
            assert [x, y, visible] == ["0.0", "0.0", "0"]


def test_patch_rows_follow_the_sorted_names_and_lie_on_their_bird(birds: Path) -> None:
    images = dict(table(birds, "images.txt"))
    is_train = dict(table(birds, "train_test_split.txt"))
    boxes = {images[r[0]]: list(map(float, r[1:])) for r in table(birds, "bounding_boxes.txt")}
    for name, flag, count in (("train", "1", 50), ("test", "0", 40)):
        patches = np.load(birds / "patches" / f"{name}_patches.npy")
        assert patches.dtype == np.float64
        assert patches.shape == (count, 6, 5)
        names = [images[i] for i in images if is_train[i] == flag]
        names.sort(key=lambda path: tuple(path.split("/")))
        for path, rows in zip(names, patches, strict=True):
            assert set(rows[:, 4]) == {int(path[:3]) - 1}
            with Image.open(birds / "images" / path) as picture:
                across, down = 448 / picture.width, 448 / picture.height
            x, y, wide, high = boxes[path]
            for y0, y1, x0, x1, _ in rows:
                assert 0 <= x0 < x1 <= 448
                assert 0 <= y0 < y1 <= 448
                assert x * across <= (x0 + x1) / 2 <= (x + wide) * across
                assert y * down <= (y0 + y1) / 2 <= (y + high) * down
                longer = max(wide, high)
                assert x1 - x0 <= 1.25 * 1.1 * longer * across + 1
                assert y1 - y0 <= 1.25 * 1.1 * longer * down + 1
        assert np.array_equal(patches, patches.round())


def test_patch_rows_in_another_order_would_miss_some_birds(birds: Path) -> None:
    """Prove that the test above can fail: paired as in images.txt, boxes miss their bird."""
    images = dict(table(birds, "images.txt"))
    is_train = dict(table(birds, "train_test_split.txt"))
    boxes = {r[0]: list(map(float, r[1:])) for r in table(birds, "bounding_boxes.txt")}
    listed = [i for i in images if is_train[i] == "1"]
    missed = 0
    for i, rows in zip(listed, np.load(birds / "patches" / "train_patches.npy"), strict=True):
        with Image.open(birds / "images" / images[i]) as picture:
            across = 448 / picture.width
        x, _, wide, _ = boxes[i]
        centres = (rows[:, 2] + rows[:, 3]) / 2
        missed += int(((centres < x * across) | (centres > (x + wide) * across)).sum())
    assert missed > 20


def test_class_names_tell_the_marks() -> None:
    assert [class_name(i) for i in range(10)] == [
        "001.Red_billed_Finch",
        "002.Red_eye_ringed_Finch",
        "003.Red_wing_barred_Finch",
        "004.Red_crowned_Finch",
        "005.Red_tail_banded_Finch",
        "006.Yellow_billed_Finch",
        "007.Yellow_eye_ringed_Finch",
        "008.Yellow_wing_barred_Finch",
        "009.Yellow_crowned_Finch",
        "010.Yellow_tail_banded_Finch",
    ]


@pytest.mark.parametrize(
    ("name", "value", "span", "nearest"),
    [
        ("num_classes", 0, "between 1 and 10", 1),
        ("num_classes", 11, "between 1 and 10", 10),
        ("train_per_class", 0, "at least 1", 1),
        ("test_per_class", -2, "at least 1", 1),
        ("picture_size", 63, "at least 64", 64),
        ("boxes_per_picture", 0, "at least 1", 1),
    ],
)
def test_counts_out_of_range_are_refused(
    tmp_path: Path, name: str, value: int, span: str, nearest: int
) -> None:
    with pytest.raises(ValueError) as caught:
        write(tmp_path / "set", **{name: value})
    assert str(caught.value) == (
        f"Expected `{name}` to be {span}, but got {value}. Pass {name}={nearest}."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError) as caught:
        write(tmp_path)
    assert str(caught.value) == (
        f"Expected `root` to be absent or an empty folder, but got {str(tmp_path)!r}, which is "
        "taken already. Name another folder, or remove this one first."
    )
    assert digests(tmp_path).keys() == {"notes.txt"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "set"
    root.mkdir(parents=True)
    write(root, num_classes=1, train_per_class=1, test_per_class=1)
    assert len(list(root.rglob("*.jpg"))) == 2
    assert [path.name for path in root.parent.iterdir()] == ["set"]


def test_an_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(*args: object, **kwargs: object) -> Drawing:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_bird(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "draw_bird", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    random.seed(3)
    before = random.getstate()
    write(tmp_path / "set", num_classes=1, train_per_class=1, test_per_class=1)
    assert random.getstate() == before


def test_the_data_set_is_drawn_once_and_refuses_other_arguments(tmp_path: Path) -> None:
    counts = {"num_classes": 2, "train_per_class": 2, "test_per_class": 1, "picture_size": 64}
    first = SyntheticBirds(tmp_path / "set", **counts, progress=False)
    before = digests(tmp_path / "set")
    again = SyntheticBirds(tmp_path / "set", "test", **counts, progress=False)
    assert digests(tmp_path / "set") == before
    assert (len(first), len(again)) == (4, 2)
    assert first[0][0].mode == "RGB"
    assert set(first.bounding_boxes) >= set(first.names)
    assert not set(first.names) & set(again.names)
    with pytest.raises(FileExistsError) as caught:
        SyntheticBirds(tmp_path / "set", **(counts | {"train_per_class": 3}), progress=False)
    assert str(caught.value) == (
        f"Expected {tmp_path / 'set'} to hold birds drawn with train_per_class=3, but it holds "
        "birds drawn with train_per_class=2. Name another folder."
    )


def test_birds_of_an_older_edition_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    small = {"num_classes": 1, "train_per_class": 1, "test_per_class": 1, "progress": False}
    SyntheticBirds(tmp_path / "set", **small)
    path = tmp_path / "set" / "synthetic.json"
    kept = json.loads(path.read_text())
    del kept["edition"]  # as the first edition wrote it
    path.write_text(json.dumps(kept))
    with pytest.raises(FileExistsError, match="edition=2, but it holds birds drawn with edition="):
        SyntheticBirds(tmp_path / "set", **small)
