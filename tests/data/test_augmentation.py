"""A transform of the user's moves picture and boxes together, or acts on each view."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import tv_tensors
from torchvision.transforms import v2

from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.data.augmentation import (
    augment_picture,
    augment_view,
    name_of_augment,
    takes_boxes,
)

BOX, SIZE = (20, 12, 44, 36), (96, 64)  # a red box on blue
RED = (250, 10, 10)
PLAIN = {"image_size": 48, "patch_size": 24, "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture
def pictures(tmp_path):
    picture = Image.new("RGB", SIZE, (10, 10, 250))
    ImageDraw.Draw(picture).rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), fill=RED)
    picture.save(tmp_path / "a.png")
    return Pictures(tmp_path, ["a.png"], [0], ["bird"])


def data_of(pictures, augment, *, boxes=(BOX,), train=True, **kwargs):
    given = {"a.png": torch.tensor([list(map(float, box)) for box in boxes])}
    return TwoStreamDataset(
        pictures, given, train=train, augment=augment, **({"flip": False} | PLAIN | kwargs)
    )


def redness(patch):
    """The share of pixels that are red rather than blue."""
    return float((patch[0] > patch[2]).double().mean())


@pytest.mark.parametrize(
    ("augment", "least"),
    [
        (v2.RandomHorizontalFlip(1.0), 0.99),
        (v2.RandomRotation((90, 90), expand=True), 0.99),
        (v2.RandomRotation(10), 0.7),  # the box around a turned box shows its corners
        (v2.RandomResizedCrop(80, scale=(0.5, 1.0), antialias=True), 0.9),
        (v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]), 0.99),
        (v2.ColorJitter(brightness=0.3), 0.99),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_patches_still_show_what_was_in_the_box(pictures, augment, least, flip):
    data = data_of(pictures, augment, flip=flip)
    assert data.augments_boxes
    torch.manual_seed(0)
    for _ in range(8):
        sample = data[0]
        assert redness(sample.patches[0]) >= least
        x0, y0, x1, y1 = sample.boxes[0].round().int().tolist()
        assert redness(sample.image[:, y0:y1, x0:x1]) >= least - 0.1  # `boxes` are of the image
        assert 0.03 < redness(sample.image) < 0.6


def test_picture_and_boxes_are_torchvisions_own():
    pixels = torch.randint(0, 255, (3, 40, 60), generator=torch.Generator().manual_seed(0)).byte()
    boxes = torch.tensor([[5.0, 6, 30, 31], [20, 10, 58, 39]])
    for augment in (v2.RandomHorizontalFlip(1.0), v2.RandomRotation(15), v2.ColorJitter(0.5)):
        torch.manual_seed(3)
        found, moved = augment_picture(augment, pixels, boxes)
        torch.manual_seed(3)
        places = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(40, 60))
        image, expected = augment(tv_tensors.Image(pixels), places)
        assert torch.equal(found, image.as_subclass(torch.Tensor))
        assert torch.equal(moved, expected.as_subclass(torch.Tensor))


def test_boxes_in_another_format_are_understood():
    pixels, boxes = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.tensor([[5.0, 6, 30, 31]])
    for format in ("XYWH", "CXCYWH"):
        _, moved = augment_picture(v2.ConvertBoundingBoxFormat(format), pixels, boxes)
        assert moved.tolist() == boxes.tolist()


def left_half(image, boxes):
    """Cut the left half out, by hand."""
    return image[..., : image.shape[-1] // 2], boxes


def test_boxes_that_leave_the_picture_are_dropped():
    """Of the boxes 10 of 10 columns are left, 10 of 20, 9 of 20 and none."""
    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 40, 10], [21, 0, 41, 10], [40, 0, 50, 10]])
    image, moved = augment_picture(left_half, pixels, boxes)
    assert tuple(image.shape) == (3, 40, 30)
    assert moved.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]


def test_a_picture_whose_boxes_are_all_gone_stays_as_it_was(pictures):
    calls = []

    def cut(image, boxes):
        calls.append(1)
        return image[..., :10], boxes

    data = data_of(pictures, cut)
    tried = len(calls)
    sample, plain = data[0], data_of(pictures, None)[0]
    assert len(calls) == tried + 10  # drawn again, each time
    assert torch.equal(sample.image, plain.image)
    assert torch.equal(sample.patches, plain.patches)
    assert torch.equal(sample.boxes, plain.boxes)


def test_too_few_boxes_are_repeated(pictures):
    boxes = [BOX, (70, 40, 90, 60)]
    sample = data_of(pictures, left_half, boxes=boxes, num_patches=2)[0]
    assert sample.boxes[0].tolist() == sample.boxes[1].tolist()
    assert redness(sample.patches[1]) == 1


@pytest.mark.parametrize("augment", [v2.RandAugment(), v2.TrivialAugmentWide()])
def test_transforms_without_boxes_act_on_each_view(pictures, augment):
    data = data_of(pictures, augment)
    assert not data.augments_boxes
    plain = data_of(pictures, None)[0]
    changed = 0
    for seed in range(5):
        torch.manual_seed(seed)
        sample = data[0]
        torch.manual_seed(seed)
        torch.randperm(1)  # of the patches
        views = [plain.image, *plain.patches]
        for view, found in zip(views, [sample.image, *sample.patches], strict=True):
            pixels = (view * 255).round().clamp(0, 255).byte()
            expected = augment(tv_tensors.Image(pixels)).as_subclass(torch.Tensor) / 255
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            changed += not torch.allclose(found, view, atol=1 / 255)
        assert torch.equal(sample.boxes, plain.boxes)
    assert changed > 3


def returning(value):
    def augment(image, boxes=None):
        return value(image, boxes)

    return augment


UINT8 = (
    "Expected `augment` to return a picture (c, h, w) of uint8, but got {}. Leave ToDtype and "
    "Normalize out: pictures are normalised afterwards, as the model wants."
)
PAIR = (
    "Expected `augment` to return a picture and its boxes, as transforms of "
    "torchvision.transforms.v2 do, but got {}."
)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (v2.ToDtype(torch.float32, scale=True), UINT8.format("torch.float32")),
        (returning(lambda image, boxes: (image.float(), boxes)), UINT8.format("torch.float32")),
        (returning(lambda image, boxes: ("no picture", boxes)), UINT8.format("str")),
        (
            v2.Grayscale(),
            "Expected `augment` to leave a picture its 3 channels, but got 1.",
        ),
        (lambda image, boxes: image, PAIR.format("Image")),
        (lambda image, boxes: (image, None), PAIR.format("tuple")),
        (
            lambda image, boxes: (image, torch.zeros(1, 5)),
            "Expected `augment` to return boxes (n, 4), xyxy in pixels, but got shape (1, 5).",
        ),
    ],
)
def test_what_a_transform_may_not_return(pictures, augment, message):
    with pytest.raises(TypeError) as caught:
        data_of(pictures, augment)
    assert str(caught.value) == message


def test_a_view_may_not_change_its_size(pictures):
    data = data_of(pictures, v2.Compose([v2.RandAugment(), v2.Resize(20, antialias=True)]))
    with pytest.raises(TypeError) as caught:
        data[0]
    assert str(caught.value) == (
        "Expected `augment` to leave views of (3, 48, 48) their size, but got (3, 20, 20)."
    )


def test_what_a_transform_takes_does_not_depend_on_chance(pictures):
    for seed in range(10):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        assert not data_of(pictures, v2.RandomApply([v2.RandAugment()], p=0.5)).augments_boxes
        assert torch.equal(torch.get_rng_state(), state)
    assert takes_boxes(v2.RandomCrop(224), 3)  # larger than the picture it is first tried on
    assert takes_boxes(v2.RandomHorizontalFlip(), 1)


def test_trying_a_transform_leaves_every_random_state(pictures):
    def augment(picture, boxes):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return picture, boxes

    def states():
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), numpys, torch.get_rng_state().tolist()

    before = states()
    data_of(pictures, augment)
    assert states() == before


def test_a_view_is_normalised_again():
    view = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (view * 255).round()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    shift, scale = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    found = augment_view(v2.RandomInvert(1.0), (pixels / 255 - shift) / scale, mean, std)
    expected = ((255 - pixels) / 255 - shift) / scale
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_evaluation_ignores_it(pictures):
    def fail(image, boxes):
        if image.shape[-1] == SIZE[0]:
            raise AssertionError("called in evaluation")
        return image, boxes

    data, plain = data_of(pictures, fail, train=False), data_of(pictures, None, train=False)
    assert torch.equal(data[0].image, plain[0].image)
    assert torch.equal(data[0].patches, plain[0].patches)


NAMES = """
import torch
from torchvision.transforms import v2
from recurrent_attention.data.augmentation import name_of_augment
def mine(image, boxes=None): return image, boxes
class Mine:
    def __call__(self, image, boxes): return image, boxes
junk = [object() for _ in range({junk})]
for augment in (None, mine, Mine(), v2.ColorJitter(0.5), v2.Compose([mine, v2.RandAugment()]),
                v2.Lambda(mine)):
    print(name_of_augment(augment))
"""


@pytest.mark.slow
def test_a_name_is_the_same_in_two_processes():
    found = [
        subprocess.run(
            [sys.executable, "-c", NAMES.format(junk=junk)], capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONHASHSEED": str(junk)},
        ).stdout
        for junk in (1, 5000)
    ]  # fmt: skip
    assert found[0] == found[1]
    assert found[0].splitlines()[:4] == [
        "None", "__main__.mine", "__main__.Mine",
        "ColorJitter(brightness=(0.5, 1.5))",
    ]  # fmt: skip
    assert "<function mine>" in found[0]


def test_a_name_says_what_a_transform_holds():
    assert name_of_augment(v2.ColorJitter(0.5)) != name_of_augment(v2.ColorJitter(0.4))
