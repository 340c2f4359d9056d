"""Views of a picture against Pillow's resizing, and JPEG files decoded at a fraction of a size."""

import numpy as np
import pytest
import torch
from PIL import Image

from recurrent_attention.data import Pictures, TwoStreamDataset
from recurrent_attention.images import open_picture
from recurrent_attention.images.views import (
    cut_view,
    cut_views,
    pixels_of,
    reduction_for,
    whole_pixels,
)

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def photo(width, height, seed=0):
    """Noise of several sizes, smooth enough to be a picture."""
    generator = np.random.default_rng(seed)
    layers = [
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for side in (4, 16, 50)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.3)


def levels(view):
    """Undo a normalisation that did nothing."""
    return (view * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [17, 64, 150])
def test_a_view_is_what_pillow_gives(interpolation, size):
    picture = photo(90, 60)
    box = torch.tensor([10.0, 5.0, 80.0, 52.0])
    view = cut_view(
        pixels_of(picture), box, size, mean=(0,) * 3, std=(1,) * 3, interpolation=interpolation
    )
    cut = picture.crop((10, 5, 80, 52)).resize((size, size), FILTERS[interpolation])
    difference = np.abs(levels(view) - np.asarray(cut))
    assert difference.max() < 2.001
    assert difference.mean() < 0.05


@pytest.mark.parametrize("interpolation", FILTERS)
def test_several_views_are_those_of_each_box(interpolation):
    pixels = pixels_of(photo(90, 60))
    boxes = torch.tensor([[10.0, 5.0, 80.0, 52.0], [0.0, 0.0, 90.0, 60.0], [3.0, 40.0, 9.0, 58.0]])
    look = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.2), "interpolation": interpolation}
    views = cut_views(pixels, boxes, 20, **look)
    assert torch.equal(views, torch.stack([cut_view(pixels, box, 20, **look) for box in boxes]))
    assert len({float(view.sum()) for view in views}) == 3


def test_a_view_is_normalised_by_channel():
    picture = photo(30, 20)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    whole = torch.tensor([0.0, 0.0, 30.0, 20.0])
    look = {"mean": mean, "std": std, "interpolation": "nearest"}
    view = cut_view(pixels_of(picture), whole, 20, **look)
    resized = np.asarray(picture.resize((20, 20), Image.Resampling.NEAREST))
    for channel in range(3):
        for y, x in ((0, 0), (7, 13), (19, 19)):
            wanted = (resized[y, x, channel] / 255 - mean[channel]) / std[channel]
            assert float(view[channel, y, x]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((1.4, 2.6, 7.4, 8.6), (1, 3, 7, 9)),
        ((0.0, 0.0, 10.0, 9.0), (0, 0, 10, 9)),
        ((4.1, 4.1, 4.3, 4.3), (4, 4, 5, 5)),  # never empty
        ((9.8, 8.9, 10.0, 9.0), (9, 8, 10, 9)),  # nor outside
    ],
)
def test_boxes_are_cut_at_whole_pixels(box, wanted):
    assert whole_pixels(torch.tensor(box), 10, 9) == wanted


@pytest.mark.parametrize(
    ("side", "size", "wanted"),
    [(447, 224, 1), (895, 224, 1), (896, 224, 2), (1792, 224, 4), (9000, 224, 8), (100, 448, 1)],
)
def test_a_jpeg_is_reduced_only_while_its_views_have_twice_the_pixels(side, size, wanted):
    assert reduction_for([5000, side], size) == wanted


@pytest.mark.parametrize("turn", [1, 6])
def test_a_large_jpeg_is_decoded_in_part_and_looks_the_same(tmp_path, turn):
    exif = Image.Exif()
    exif[0x112] = turn
    photo(1000, 800).save(tmp_path / "large.jpg", quality=95, exif=exif)
    size = (1000, 800) if turn == 1 else (800, 1000)
    assert open_picture(tmp_path / "large.jpg", reduction=4).size == (size[0] // 4, size[1] // 4)
    boxes = torch.tensor([[100.0, 200.0, 500.0, 600.0], [300.0, 300.0, 700.0, 800.0]])
    pictures = Pictures(tmp_path, ["large.jpg"], [0], ["a"])
    sizes = {"image_size": 100, "patch_size": 50, "num_patches": 2}
    plain = {"mean": (0,) * 3, "std": (1,) * 3}
    sample = TwoStreamDataset(pictures, {"large.jpg": boxes}, **sizes, **plain)[0]
    whole = pixels_of(open_picture(tmp_path / "large.jpg"))
    views = [(sample.image, torch.tensor([0, 0, *size]), 100)]
    views += [(patch, box, 50) for patch, box in zip(sample.patches, boxes, strict=True)]
    for view, box, side in views:
        difference = np.abs(levels(view) - levels(cut_view(whole, box, side, **plain)))
        assert difference.mean() < 1
        assert difference.max() < 12
    assert torch.equal(sample.boxes[0], boxes[0] * torch.tensor([100 / side for side in size] * 2))


def jpeg_and_whole(folder, **settings):
    """A large JPEG file as two streams see it, and the same picture as it is decoded whole."""
    photo(1000, 800).save(folder / "large.jpg", quality=95)
    open_picture(folder / "large.jpg").save(folder / "large.png")
    boxes = torch.tensor([[100.0, 200.0, 500.0, 600.0]])
    samples = []
    for name in ("large.jpg", "large.png"):
        data = TwoStreamDataset(
            Pictures(folder, [name], [0], ["a"]),
            {name: boxes},
            mean=(0,) * 3,
            std=(1,) * 3,
            flip=False,
            **settings,
        )
        torch.manual_seed(0)
        samples.append(data[0])
    return samples


def test_a_crop_of_a_reduced_jpeg_is_where_it_is_in_the_whole_one(tmp_path):
    reduced, whole = jpeg_and_whole(
        tmp_path, image_size=50, patch_size=50, train=True, crop_scale=(0.4, 0.4)
    )
    assert torch.equal(reduced.boxes, whole.boxes)
    difference = np.abs(levels(reduced.image) - levels(whole.image))
    assert 0 < difference.mean() < 1
    assert difference.max() < 12


def test_the_image_alone_can_ask_for_the_whole_jpeg(tmp_path):
    reduced, whole = jpeg_and_whole(tmp_path, image_size=300, patch_size=20)
    assert torch.equal(reduced.image, whole.image)
    assert torch.equal(reduced.patches, whole.patches)


def test_other_formats_are_decoded_whole(tmp_path):
    photo(200, 100).save(tmp_path / "small.png")
    assert open_picture(tmp_path / "small.png", reduction=8).size == (200, 100)
