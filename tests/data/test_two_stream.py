"""TwoStreamDataset: patches by name, from the original picture, consistent with flips and crops."""

import pytest
import torch
from PIL import Image

from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.data.two_stream import IMAGENET_MEAN, IMAGENET_STD


def gradient_picture(width=200, height=100):
    """Red grows with x, green with y, so that a pixel's colour tells where it was."""
    red = Image.linear_gradient("L").rotate(90).resize((width, height))
    green = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 128)))


@pytest.fixture
def pictures(tmp_path):
    for number in range(3):
        gradient_picture().save(tmp_path / f"{number}.png")
    return Pictures(tmp_path, ["0.png", "1.png", "2.png"], [0, 1, 0], ["a", "b"])


def boxes_for(pictures, count=4):
    generator = torch.Generator().manual_seed(0)
    boxes = {}
    for name in pictures.names:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([120.0, 50.0])
        side = 20 + torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 30.0])
        boxes[name] = torch.cat([corner, corner + side], dim=1)
    return boxes


def denormalise(pixels):
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return pixels * std[:, None, None] + mean[:, None, None]


def corners_seen(patch):
    """Where a patch's left, top, right and bottom edges lie in the picture, from its colours."""
    red, green, _ = denormalise(patch)
    columns, rows = red.mean(0), green.mean(1)
    # the centres of the outer pixels lie half a pixel inside; extrapolate to the edges
    left, right = 1.5 * columns[0] - 0.5 * columns[1], 1.5 * columns[-1] - 0.5 * columns[-2]
    top, bottom = 1.5 * rows[0] - 0.5 * rows[1], 1.5 * rows[-1] - 0.5 * rows[-2]
    return torch.stack([left, top, right, bottom])


def red_slope(patch):
    return denormalise(patch)[0].mean(0).diff().mean()


def where(box, width=200, height=100):
    """The colours that `corners_seen` should find for a box."""
    return torch.tensor([box[0] / width, box[1] / height, box[2] / width, box[3] / height])


def test_evaluation_takes_the_first_boxes_of_the_right_picture(pictures):
    boxes = boxes_for(pictures)
    shuffled = dict(reversed(boxes.items()))
    data = TwoStreamDataset(pictures, shuffled, image_size=64, patch_size=32, num_patches=2)
    for index, name in enumerate(pictures.names):
        sample = data[index]
        assert sample.label == pictures.labels[index]
        assert sample.image.shape == (3, 64, 64)
        torch.testing.assert_close(
            corners_seen(sample.image), where((0, 0, 200, 100)), rtol=0, atol=0.03
        )
        for patch, box in zip(sample.patches, boxes[name][:2], strict=True):
            torch.testing.assert_close(corners_seen(patch), where(box), rtol=0, atol=0.03)
        scale = torch.tensor([64 / 200, 64 / 100, 64 / 200, 64 / 100])
        torch.testing.assert_close(sample.boxes, boxes[name][:2] * scale)


def test_patches_come_from_the_original_picture(tmp_path):
    """A pattern of single pixels survives; cut from the resized image it would be grey."""
    picture = Image.new("L", (512, 512))
    picture.putdata([255 * ((x + y) % 2) for y in range(512) for x in range(512)])
    picture.save(tmp_path / "a.png")
    data = TwoStreamDataset(
        Pictures(tmp_path, ["a.png"], [0], ["a"]),
        {"a.png": torch.tensor([[100.0, 200.0, 132.0, 232.0]])},
        image_size=64,
        patch_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    sample = data[0]
    assert sample.image.std() < 0.05
    expected = torch.tensor([[float((x + y) % 2) for x in range(32)] for y in range(32)])
    assert torch.equal(sample.patches[0, 0], expected)


def test_training_draws_every_patch_and_flips_consistently(pictures):
    boxes = boxes_for(pictures)
    data = TwoStreamDataset(
        pictures, boxes, image_size=64, patch_size=32, num_patches=2, train=True
    )
    torch.manual_seed(0)
    seen, flips = set(), 0
    for _ in range(60):
        sample = data[1]
        flipped = bool(red_slope(sample.image) < 0)
        flips += flipped
        for patch, box in zip(sample.patches, sample.boxes, strict=True):
            assert bool(red_slope(patch) < 0) == flipped
            box = box * torch.tensor([200 / 64, 100 / 64, 200 / 64, 100 / 64])
            if flipped:
                box = torch.stack([200 - box[2], box[1], 200 - box[0], box[3]])
                patch = patch.flip(-1)
            torch.testing.assert_close(corners_seen(patch), where(box), rtol=0, atol=0.03)
            match = (boxes["1.png"] - box).abs().amax(1).argmin().item()
            torch.testing.assert_close(box, boxes["1.png"][match], rtol=0, atol=1e-3)
            seen.add(match)
        assert not torch.equal(sample.boxes[0], sample.boxes[1])
    assert seen == {0, 1, 2, 3}
    assert 15 < flips < 45


def test_random_crops_move_boxes_and_patches_together(pictures):
    data = TwoStreamDataset(
        pictures,
        boxes_for(pictures),
        image_size=64,
        patch_size=32,
        train=True,
        crop_scale=(0.3, 0.7),
    )
    torch.manual_seed(0)
    areas = []
    for _ in range(40):
        sample = data[2]
        image, patch, box = sample.image, sample.patches[0], sample.boxes[0]
        assert (box >= -1e-3).all()
        assert (box <= 64 + 1e-3).all()
        left, top, right, bottom = corners_seen(image).tolist()
        areas.append(abs(right - left) * (bottom - top))
        expected = torch.tensor(
            [
                left + box[0] / 64 * (right - left),
                top + box[1] / 64 * (bottom - top),
                left + box[2] / 64 * (right - left),
                top + box[3] / 64 * (bottom - top),
            ]
        )
        torch.testing.assert_close(corners_seen(patch), expected, rtol=0, atol=0.04)
    assert 0.25 < min(areas) < max(areas) < 0.75


def test_evaluation_uses_no_chance_and_training_only_torchs(pictures):
    data = TwoStreamDataset(pictures, boxes_for(pictures), image_size=32, patch_size=32)
    state = torch.get_rng_state()
    first, second = data[0], data[0]
    assert torch.equal(first.patches, second.patches)
    assert torch.equal(torch.get_rng_state(), state)
    train = TwoStreamDataset(
        pictures, data.boxes, image_size=32, patch_size=32, train=True, crop_scale=(0.5, 1)
    )
    torch.manual_seed(5)
    first = train[0]
    torch.manual_seed(5)
    assert torch.equal(train[0].patches, first.patches)


def test_fixed_views_are_those_of_evaluation(pictures):
    data = TwoStreamDataset(
        pictures, boxes_for(pictures), image_size=32, patch_size=32, num_patches=4, train=True
    )
    image, patches = data.fixed_views(1)
    still = TwoStreamDataset(pictures, data.boxes, image_size=32, patch_size=32, num_patches=4)[1]
    assert torch.equal(image, still.image)
    assert torch.equal(patches, still.patches)


def test_bad_boxes_are_refused(pictures):
    boxes = boxes_for(pictures)
    with pytest.raises(ValueError) as caught:
        TwoStreamDataset(pictures, {"0.png": boxes["0.png"]})
    assert str(caught.value) == (
        "Expected boxes for 1.png, but the 1 given are of other pictures. Key them by the file "
        "name relative to the data set's root."
    )
    with pytest.raises(ValueError) as caught:
        TwoStreamDataset(pictures, boxes, num_patches=5)
    assert str(caught.value) == (
        "Expected at least num_patches=5 boxes for each picture, but 0.png has 4."
    )
    for box in ([10.0, 10, 10, 20], [10.0, 10, 202, 20], [-5.0, 10, 20, 20]):
        data = TwoStreamDataset(pictures, {**boxes, "2.png": torch.tensor([box])})
        with pytest.raises(
            ValueError, match=r"^Expected box 0 of 2.png to be .* 200 x 100 picture"
        ):
            data[2]
    data = TwoStreamDataset(pictures, {**boxes, "2.png": torch.tensor([[-0.9, 0, 200.9, 100]])})
    assert data[2].boxes.tolist() == [[0, 0, 448, 448]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_patches": 0}, "^Expected `num_patches` to be at least 1, but got 0.$"),
        ({"interpolation": "cubic"}, "^Expected `interpolation` to be one of nearest, bilinear"),
        ({"crop_scale": (0.0, 1.0)}, "^Expected `crop_scale` to be"),
        ({"crop_scale": (0.9, 0.5)}, "^Expected `crop_scale` to be"),
        ({"crop_scale": 0.5}, "^Expected `crop_scale` to be"),
        ({"image_size": 0}, "^Expected `image_size` to be at least 1, but got 0.$"),
        ({"patch_size": (9, 8)}, "^Expected `patch_size` to be the side of a square"),
    ],
)
def test_bad_arguments(pictures, kwargs, message):
    with pytest.raises(ValueError, match=message):
        TwoStreamDataset(pictures, boxes_for(pictures), **kwargs)


def test_sides_and_counts_of_every_kind(pictures):
    data = TwoStreamDataset(pictures, boxes_for(pictures), image_size=(64, 64))
    assert data[0].image.shape == (3, 64, 64)
    for count in (1.0, "2"):
        with pytest.raises(TypeError, match="^Expected `num_patches` to be a whole number"):
            TwoStreamDataset(pictures, boxes_for(pictures), num_patches=count)


def test_patches_drawn_at_random_stay_best_first(pictures):
    """An attention over the patches sees them in training in the order of evaluation."""
    boxes = boxes_for(pictures)
    data = TwoStreamDataset(pictures, boxes, num_patches=3, train=True, flip=False, image_size=64)
    width, height = pictures.size(0)
    scale = torch.tensor([64 / width, 64 / height] * 2)
    given = (boxes[pictures.names[0]].float() * scale).tolist()
    torch.manual_seed(0)
    chosen = set()
    for _ in range(30):
        places = [
            min(range(4), key=lambda i: sum(abs(a - b) for a, b in zip(given[i], box, strict=True)))
            for box in data[0].boxes.tolist()
        ]
        assert places == sorted(places)
        chosen.add(tuple(places))
    assert len(chosen) == 4  # three of four
