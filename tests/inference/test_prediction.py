"""predict: the same numbers as by hand, for every kind of picture, and nothing else changed."""

import copy
import io
import math
import random
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from helpers.models import photo
from PIL import Image
from torch import nn

from recurrent_attention import Prediction, TwoStreamClassifier
from recurrent_attention.images.reading import open_picture
from recurrent_attention.inference import inputs

UNKNOWN = "data in none of the formats JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, AVIF, HEIF"
NAMES = ["auk", "coot", "dodo", "emu"]
MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)
IMAGE, PATCH = 64, 32
RELATIVE_BOXES = ((0.1, 0.2, 0.6, 0.7), (0.5, 0.25, 1.0, 0.75))


@pytest.fixture(autouse=True)
def several_at_once(monkeypatch):
    """On the CPU pictures go through one by one; here together, as they do elsewhere."""
    monkeypatch.setattr(inputs, "PICTURES_PER_PASS_CPU", 4)


def make(backbone="test_resnet", num_classes=4, **kwargs):
    torch.manual_seed(0)
    look = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    settings = {
        "class_names": NAMES if num_classes == 4 else None,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "num_patches": 2,
        "hidden_size": 16,
        "num_steps": 3,
        "backbone_kwargs": {"pretrained_cfg_overlay": look},
    } | kwargs
    model = TwoStreamClassifier(backbone, num_classes, **settings).eval()
    with torch.no_grad():  # as initialised, every answer is nearly the same
        model.global_head.weight.mul_(100)
        model.local_head.weight.mul_(100)
    model.propose = lambda images: relative(images.shape[3], images.shape[2]).repeat(
        len(images), 1, 1
    )
    return model


def relative(width, height):
    return torch.tensor([RELATIVE_BOXES]) * torch.tensor([width, height, width, height])


@pytest.fixture(scope="module")
def model():
    return make()


def by_hand(picture, boxes=None, mean=MEAN, mode="bicubic"):
    """Image (1 3 h w) and patches (1 p 3 h w) of an upright RGB picture, normalised with NumPy.

    That torch's resizing is Pillow's is shown in test_views.py.
    """
    width, height = picture.size
    if boxes is None:
        boxes = relative(width, height)[0].tolist()

    def view(box, side):
        cut = torch.from_numpy(np.array(picture.crop([round(corner) for corner in box])))
        cut = cut.permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(cut, (side, side), mode=mode, antialias=True)
        pixels = resized[0].permute(1, 2, 0).numpy()
        return ((pixels / 255 - np.array(mean)) / np.array(STD)).transpose(2, 0, 1)

    image = view((0, 0, width, height), IMAGE)[None]
    patches = np.stack([view(box, PATCH) for box in boxes])[None]
    return torch.from_numpy(image).float(), torch.from_numpy(patches).float()


def probabilities(logits):
    """Softmax of one row, with plain Python."""
    top = max(logits.tolist())
    powers = [math.exp(value - top) for value in logits.double().tolist()]
    return [power / sum(powers) for power in powers]


def assert_is(prediction, output, row=0, *, names=NAMES, atol=1e-6):
    """Compare all classes with what forward gave for a picture."""
    wanted = probabilities(output.logits[row])
    assert len(prediction.indices) == len(wanted)
    for index, probability in zip(prediction.indices, prediction.probabilities, strict=True):
        assert probability == pytest.approx(wanted[index], abs=atol)
    assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    assert prediction.class_names == tuple(names[index] for index in prediction.indices)
    assert prediction.global_class == names[output.global_logits[row].argmax()]
    assert prediction.local_class == names[output.local_logits[row].argmax()]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_file_gives_what_forward_gives_for_tensors_made_by_hand(tmp_path, backbone):
    model = make(backbone)
    picture = photo()
    picture.save(tmp_path / "bird.png")
    prediction = model.predict(tmp_path / "bird.png")
    with torch.no_grad():
        assert_is(prediction, model(*by_hand(picture)))
        # A wrong normalisation, filter or box would show.
        for wrong in (
            by_hand(picture, mean=(0.4, 0.5, 0.6)),
            by_hand(picture, mode="bilinear"),
            by_hand(picture, [(0, 0, 45, 35), (0, 0, 90, 70)]),
        ):
            with pytest.raises(AssertionError):
                assert_is(prediction, model(*wrong))
    assert prediction.boxes == tuple(map(tuple, relative(90, 70)[0].tolist()))


def test_another_normalisation_and_interpolation_of_the_backbone():
    picture = photo()
    look = {"mean": (0.4, 0.5, 0.6), "std": STD, "interpolation": "bilinear"}
    model = make(backbone_kwargs={"pretrained_cfg_overlay": look})
    tensors = by_hand(picture, mean=(0.4, 0.5, 0.6), mode="bilinear")
    with torch.no_grad():
        assert_is(model.predict(picture), model(*tensors))


def test_patches_are_cut_out_of_the_original_picture(model):
    """Single pixels survive; cut out of the 64 x 64 image they would be gray."""
    picture = Image.new("L", (640, 480))
    picture.putdata([255 * ((x + y) % 2) for y in range(480) for x in range(640)])
    seen = {}
    small = make(num_patches=1)
    small.propose = lambda images: (
        images.shape[3] * torch.tensor([[[10, 20, 13.2, 24 + 4 / 15]]]) / 64
    )
    handle = small.local_backbone.register_forward_pre_hook(
        lambda _, inputs: seen.update(patches=inputs[0].clone())
    )
    prediction = small.predict(picture)
    handle.remove()
    (box,) = prediction.boxes
    assert box == pytest.approx((100, 150, 132, 182))  # 32 x 32 pixels of the original
    board = torch.tensor([[float((x + y) % 2) for x in range(32)] for y in range(32)])
    wanted = (board - MEAN[0]) / STD[0]
    torch.testing.assert_close(seen["patches"][0, 0], wanted, rtol=0, atol=2e-3)


def kinds(picture, folder):
    """The same picture in every form."""
    path = folder / "bird.png"
    picture.save(path)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "PIL": picture,
        "lazy PIL": Image.open(path),
        "memory": io.BytesIO(path.read_bytes()),
        "file": path.open("rb"),
        "uint8": pixels,
    }


def test_every_kind_of_picture_gives_the_same(model, tmp_path):
    picture = photo()
    with torch.no_grad():
        output = model(*by_hand(picture))
    found = kinds(picture, tmp_path)
    for source in found.values():
        assert_is(model.predict(source), output)
    mixed = model.predict(list(found.values()))
    assert type(mixed) is list
    for prediction in [*mixed, *model.predict(tuple(found.values()))]:
        assert_is(prediction, output)
    (one,) = model.predict(found["uint8"][None])
    assert_is(one, output)
    assert model.predict(found["path"]) == model.predict(picture)  # plain values compare
    found["file"].close()


def test_pictures_of_every_mode_are_converted(model, tmp_path):
    """test_reading.py compares the conversions by hand; here with the RGB that follows."""
    picture = photo()
    alpha = picture.convert("L").point(lambda v: 255 - v)
    see_through = picture.copy()
    see_through.putalpha(alpha)
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=alpha)
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    gray = Image.merge("RGB", [picture.convert("L")] * 3)
    palette = picture.quantize(64)
    inks = picture.convert("CMYK")
    moving = {"save_all": True, "append_images": [photo(1).quantize(64)]}
    for name, stored, kwargs, wanted in (
        ("gray.png", picture.convert("L"), {}, gray),
        ("deep.png", Image.fromarray(deep), {}, gray),
        ("alpha.png", see_through, {}, white),
        ("palette.png", palette, {}, palette.convert("RGB")),
        ("moving.gif", palette, moving, palette.convert("RGB")),
        ("inks.tiff", inks, {}, inks.convert("RGB")),
    ):
        stored.save(tmp_path / name, **kwargs)
        with torch.no_grad():
            output = model(*by_hand(wanted))
        atol = 2e-3 if name == "alpha.png" else 1e-6  # paste rounds otherwise
        assert_is(model.predict(tmp_path / name), output, atol=atol)
        assert_is(model.predict(stored), output, atol=atol)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_seen_upright(model, tmp_path, orientation):
    upright = np.asarray(photo())
    stored = {  # what a camera stores, so that the orientation turns it upright
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "bird.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    with torch.no_grad():
        output = model(*by_hand(photo()))
    with Image.open(path) as picture:
        for source in (path, picture):
            prediction = model.predict(source)
            assert_is(prediction, output)
            assert prediction.boxes == model.predict(photo()).boxes
    boxes = torch.tensor([[5.0, 10.0, 85.0, 40.0]])  # fits the upright picture only
    with torch.no_grad():
        output = model(*by_hand(photo(), boxes.tolist()))
    assert_is(model.predict(path, boxes=boxes), output)


def test_floating_point_tensors_are_taken_as_they_are(model):
    images, _ = by_hand(photo())
    images = torch.cat([images, by_hand(photo(1))[0]])
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 30.0, 52.0, 62.0]])
    patches = torch.stack([images[:, :, 8:40, 8:40], images[:, :, 30:62, 20:52]], dim=1)
    with torch.no_grad():
        output = model(images, patches)
    batch = model.predict(images, patches=patches)
    assert [prediction.boxes for prediction in batch] == [None, None]
    for row, prediction in enumerate(batch):
        assert_is(prediction, output, row)
        assert_is(model.predict(images[row], patches=patches[row]), output, row)
        # A box of the patch's own size cuts out these very pixels.
        assert_is(model.predict(images[row], boxes=boxes), output, row)
    proposing = copy.copy(model)
    proposing.propose = lambda images: boxes.repeat(len(images), 1, 1)
    for row, prediction in enumerate(proposing.predict(images)):
        assert_is(prediction, output, row)
    mixed = model.predict([images[0], photo(1)], patches=[patches[0], patches[1]])
    assert_is(mixed[0], output, 0)
    assert_is(mixed[1], output, 1)


def test_tensors_that_are_no_squares(model):
    """Of the size they have; boxes are in their own pixels."""
    images = torch.randn(1, 3, 48, 96, generator=torch.Generator().manual_seed(3))
    proposing = copy.copy(model)
    proposing.propose = lambda images: torch.tensor([[[60.0, 10.0, 92.0, 42.0]]])
    with torch.no_grad():
        output = model(images, images[:, :, 10:42, 60:92])
    (prediction,) = proposing.predict(images)
    assert_is(prediction, output)
    assert prediction.boxes == ((60, 10, 92, 42),)
    first, second = model.predict([images[0], photo(0, (99, 70))], boxes=[[[60, 10, 92, 42]]] * 2)
    assert_is(first, output)
    assert first.boxes == second.boxes


def test_given_boxes_and_patches(model):
    """One picture takes them as they are, several a list of them or one more axis in front."""
    pictures = [photo(0), photo(1, (50, 120))]
    boxes = [
        torch.tensor([[3.0, 4.0, 60.0, 50.0], [10.5, 0.0, 90.0, 33.3]]),
        torch.tensor([[0.0, 0.0, 50.0, 120.0], [10.0, 60.0, 40.0, 110.0]]),
    ]
    made = [by_hand(picture, some.tolist()) for picture, some in zip(pictures, boxes, strict=True)]
    with torch.no_grad():
        outputs = [model(*tensors) for tensors in made]
    patches = torch.cat([tensors[1] for tensors in made])
    for row, picture in enumerate(pictures):
        first = model.predict(picture, boxes=boxes[row])
        assert_is(first, outputs[row])
        assert_is(model.predict(picture, patches=patches[row]), outputs[row])
        assert model.predict(picture, boxes=first.boxes) == first
    for given in (
        {"boxes": boxes},
        {"boxes": torch.stack(boxes)},
        {"patches": patches},
        {"patches": list(patches)},
        {"patches": patches.numpy()},
    ):
        predictions = model.predict(pictures, **given)
        for prediction, output in zip(predictions, outputs, strict=True):
            assert_is(prediction, output)
    uneven = model.predict(pictures, boxes=[boxes[0], boxes[1][:1]])
    assert_is(uneven[0], outputs[0])
    with torch.no_grad():
        assert_is(uneven[1], model(made[1][0], made[1][1][:, :1]))
    over_the_edge = torch.tensor([[-0.9, 0.0, 90.9, 70.5]])
    assert model.predict(pictures[0], boxes=over_the_edge).boxes == ((0, 0, 90, 70),)


@pytest.mark.parametrize(("most", "passes"), [(1, [1] * 11), (4, [4, 4, 3])])
def test_many_pictures_go_through_in_small_passes(model, tmp_path, monkeypatch, most, passes):
    monkeypatch.setattr(inputs, "PICTURES_PER_PASS_CPU", most)
    pictures = []
    for number in range(11):
        pictures.append(tmp_path / f"{number}.png")
        photo(number, (40 + 3 * number, 60)).save(pictures[-1])
    sizes = []
    handle = model.global_backbone.register_forward_hook(
        lambda _, inputs, __: sizes.append(len(inputs[0]))
    )
    together = model.predict(pictures)
    handle.remove()
    assert sizes == passes
    for path, prediction in zip(pictures, together, strict=True):
        alone = model.predict(path)
        assert prediction.class_names == alone.class_names
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
        assert prediction.boxes == alone.boxes
    backwards = model.predict(pictures[::-1])
    assert [p.boxes for p in backwards] == [p.boxes for p in together[::-1]]


def test_nothing_in_nothing_out(model):
    assert model.predict([]) == []
    assert model.predict(()) == []
    assert model.predict(torch.zeros(0, 3, 20, 20)) == []
    assert model.predict([], patches=[]) == []


def test_top_k(model):
    everything = model.predict(photo(), top_k=100)
    assert len(everything.indices) == 4  # as many as there are
    assert sorted(everything.indices) == [0, 1, 2, 3]
    assert math.isclose(sum(everything.probabilities), 1)
    two = model.predict(photo(), top_k=2)
    assert two.indices == everything.indices[:2]
    assert two.probabilities == everything.probabilities[:2]
    assert len(make(num_classes=7).predict(photo()).indices) == 5
    (one,) = model.predict([photo()], top_k=np.int64(1))
    assert one.class_names == everything.class_names[:1]


def test_a_model_without_names_and_equal_classes():
    model = make(num_classes=300)
    with torch.no_grad():
        for parameter in [*model.global_head.parameters(), *model.local_head.parameters()]:
            parameter.zero_()
    prediction = model.predict(photo())
    assert prediction.class_names == ("0", "1", "2", "3", "4")
    assert prediction.indices == (0, 1, 2, 3, 4)
    assert prediction.probabilities == (pytest.approx(1 / 300),) * 5


def test_how_a_prediction_reads():
    prediction = Prediction(("wren", "house finch"), (0.9999, 0.0001), (1, 0), "wren", "owl", None)
    assert str(prediction) == (
        "wren         100.0 %\n"
        "house finch    0.0 %\n"
        "global stream alone: wren, local stream alone: owl"
    )
    assert repr([prediction]) == "[<Prediction wren 100.0 %, house finch 0.0 %>]"


@pytest.fixture(scope="module")
def half_trained():
    """One for many calls, none of which changes it."""
    return trained_a_bit()


def trained_a_bit(**kwargs):
    """A model in the middle of training: gradients, and modules in different modes."""
    model = make(drop_rate=0.5, **kwargs)
    model.train()
    image, patches = by_hand(photo())
    model(image.repeat(2, 1, 1, 1), patches.repeat(2, 1, 1, 1, 1)).logits.sum().backward()
    for module in list(model.modules())[::3]:
        module.training = False
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == ({True, False} if norms else set())
    for parameter in list(model.parameters())[::5]:
        parameter.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    return model


def everything_about(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in hooks],
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [
            None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()
        ],
        "frozen": [p.requires_grad for p in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "chance": (torch.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
        "switches": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_same(before, after):
    assert type(before) is type(after)
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after)
    elif isinstance(before, dict):
        assert list(before) == list(after)
        assert_same(list(before.values()), list(after.values()))
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            assert_same(old, new)
    else:
        assert before == after


@contextmanager
def nothing_changes(model):
    before = everything_about(model)
    yield
    assert_same(before, everything_about(model))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_nothing_of_the_model_changes(backbone, tmp_path):
    model = trained_a_bit(backbone=backbone)
    with torch.no_grad():
        output = copy.deepcopy(model).eval()(*by_hand(photo()))
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    with nothing_changes(model):
        prediction = model.predict(photo())
        with pytest.raises(ValueError, match=r"broken.png \(`images\[11\]`\)"):
            model.predict([photo()] * 11 + [broken])
    assert_is(prediction, output)  # without dropout, with the running statistics


@pytest.mark.parametrize("part", ["global_backbone", "local_backbone.model.layer1"])
def test_a_compiled_part_answers_in_eval_mode_and_learns_nothing(part):
    model = trained_a_bit()
    output = copy.deepcopy(model).eval()(*by_hand(photo()))
    owner, _, name = part.rpartition(".")
    owner = model.get_submodule(owner)
    setattr(owner, name, torch.compile(getattr(owner, name), backend="eager"))
    with nothing_changes(model):
        prediction = model.predict(photo())
    assert_is(prediction, output)


def test_nothing_changes_when_the_model_itself_fails():
    model = trained_a_bit()
    model.propose = lambda images: images.new_zeros(0) / images.no_such_thing
    with nothing_changes(model), pytest.raises(AttributeError):
        model.predict(photo())


def test_what_a_module_keeps_for_evaluation_is_dropped_for_training():
    """As LeViT in timm does: the table is filled in eval mode and emptied by `train`."""

    class Cached(nn.Module):
        table = None

        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.scale = nn.Parameter(torch.ones(()))

        def train(self, mode=True):
            if mode:
                self.table = None
            return super().train(mode)

        def forward(self, x):
            if self.training:
                return self.inner(x * self.scale)
            if self.table is None:
                self.table = self.scale.clone()
            return self.inner(x * self.table)

    model = make()
    model.global_head = Cached(model.global_head)
    model.train()
    first = model.predict(photo())
    assert model.global_head.table is None
    with torch.no_grad():
        model.global_head.scale.mul_(3)
        wanted = model.eval()(*by_hand(photo()))
    assert_is(model.train().predict(photo()), wanted)
    assert first.probabilities != model.predict(photo()).probabilities


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_no_gradient_and_no_inference_tensors(context):
    model = trained_a_bit()
    made = []
    handle = model.global_backbone.register_forward_hook(
        lambda _, __, output: made.append((output.requires_grad, output.is_inference()))
    )
    with context():
        images = by_hand(photo())[0]
        with nothing_changes(model):
            prediction = model.predict(photo())
            model.predict(images)
    handle.remove()
    assert made == [(False, False)] * 2
    with torch.no_grad():
        assert_is(prediction, copy.deepcopy(model).eval()(*by_hand(photo())))


def test_pictures_stay_as_they_are(model, tmp_path):
    found = kinds(photo(), tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo().convert("LA")
    turned.info["exif"] = exif.tobytes()
    tensor = torch.randn(3, IMAGE, IMAGE, requires_grad=True)
    boxes = torch.tensor([[-0.5, 0.0, 40.0, 40.0]], requires_grad=True)
    found["file"].seek(10)
    found["memory"].seek(20)
    before = (
        turned.tobytes(),
        tensor.detach().clone(),
        found["uint8"].clone(),
        boxes.detach().clone(),
    )
    pictures = [*found.values(), turned, tensor]
    model.predict(pictures, boxes=[boxes] * len(pictures))
    after = turned.tobytes(), tensor.detach(), found["uint8"], boxes
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
    assert (turned.mode, turned.info["exif"]) == ("LA", exif.tobytes())
    assert tensor.grad is boxes.grad is None
    assert (found["file"].tell(), found["memory"].tell()) == (10, 20)
    assert not found["file"].closed
    found["file"].close()


def test_a_long_list_is_read_as_it_goes(model, tmp_path):
    """No more pictures are open or decoded than go through together."""

    class Watched(io.BytesIO):
        seen = False

        def read(self, *args):
            self.seen = True
            return super().read(*args)

    photo().save(tmp_path / "bird.png")
    pictures = [Watched((tmp_path / "bird.png").read_bytes()) for _ in range(9)]
    read_so_far = []
    handle = model.global_backbone.register_forward_hook(
        lambda *_: read_so_far.append(sum(picture.seen for picture in pictures))
    )
    model.predict(pictures)
    handle.remove()
    assert read_so_far == [4, 8, 9]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_model(model, dtype):
    other = copy.deepcopy(model).to(dtype)
    exact = dict(zip(*model.predict(photo())[2:0:-1], strict=True))
    for source in (photo(), by_hand(photo())[0][0]):
        boxes = relative(*photo().size)[0] if isinstance(source, Image.Image) else None
        prediction = other.predict(source, boxes=boxes)
        assert len(prediction.indices) == 4
    tolerance = 1e-6 if dtype == torch.float64 else 0.05
    found = other.predict(photo())
    for index, probability in zip(found.indices, found.probabilities, strict=True):
        assert probability == pytest.approx(exact[index], abs=tolerance)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000), (1, 300)])
def test_pictures_of_every_size(model, tmp_path, size):
    """One colour looks the same in every size."""
    Image.new("RGB", size, (30, 90, 200)).save(tmp_path / "bird.png")
    prediction = model.predict(tmp_path / "bird.png")
    with torch.no_grad():
        output = model(*by_hand(Image.new("RGB", (80, 80), (30, 90, 200))))
    assert_is(prediction, output, atol=1e-5)
    assert prediction.boxes == tuple(map(tuple, relative(*size)[0].tolist()))


SHAPE = "Expected `images` to have shape (3, h, w) or (b, 3, h, w), but got "
KINDS = "a path, a PIL image, an open binary file, an array or a tensor"
BAD_PICTURES = [
    (torch.zeros(3, 3), ValueError, SHAPE + "(3, 3)."),
    (
        torch.zeros(20, 30, 3),
        ValueError,
        SHAPE + "(20, 30, 3). Move the channels to the front: permute(2, 0, 1).",
    ),
    (torch.zeros(1, 20, 20, dtype=torch.uint8), ValueError, SHAPE + "(1, 20, 20)."),
    (torch.zeros(3, 0, 20), ValueError, SHAPE + "(3, 0, 20)."),
    (torch.zeros(1, 2, 3, 20, 20), ValueError, SHAPE + "(1, 2, 3, 20, 20)."),
    (
        torch.zeros(2, 4, 20, 20),
        ValueError,
        "Expected `images[0]` to have shape (3, h, w), but got (4, 20, 20).",
    ),
    (
        torch.zeros(3, 20, 20, dtype=torch.int64),
        TypeError,
        "Expected `images` to be torch.uint8 (pixels 0 to 255) or floating point (normalised), but "
        "got torch.int64.",
    ),
    (
        torch.tensor([0, math.nan, math.inf]).repeat(3, 2, 1),
        ValueError,
        "Expected `images` to hold finite numbers, but 12 of its 18 are NaN or infinite.",
    ),
    (None, TypeError, f"Expected `images` to be {KINDS}, or a list of these, but got NoneType."),
    (
        np.zeros((20, 20, 3)),
        TypeError,
        "Expected `images` to be an array of uint8 (pixels 0 to 255), but got float64. Scale it, "
        "or pass a normalised tensor.",
    ),
    (
        np.zeros((3, 20, 20), np.uint8),
        ValueError,
        "Expected `images` to have shape (h, w, 3), (h, w, 4) or (h, w), but got (3, 20, 20). Move "
        "the channels to the end: transpose(1, 2, 0).",
    ),
    (
        {"a.jpg", "b.jpg"},
        TypeError,
        f"Expected `images` to be {KINDS}, or a list of these, but got set. It has no order for "
        "the answers to follow: make it a list.",
    ),
    (
        b"\x89PNG",
        TypeError,
        f"Expected `images` to be {KINDS}, or a list of these, but got bytes. Wrap it in "
        "io.BytesIO.",
    ),
    (
        {"image": "bird.jpg"},
        TypeError,
        f"Expected `images` to be {KINDS}, or a list of these, but got dict. It has no order for "
        "the answers to follow: make it a list.",
    ),
    (
        [Image.new("L", (5, 5)), [Image.new("L", (5, 5))]],
        TypeError,
        f"Expected `images[1]` to be {KINDS}, but got list. Make it a flat list.",
    ),
    (
        [torch.zeros(1, 3, 20, 20)],
        ValueError,
        "Expected `images[0]` to have shape (3, h, w), but got (1, 3, 20, 20).",
    ),
    (
        io.StringIO("picture"),
        TypeError,
        "Expected `images` to be a file opened in binary mode, but got one opened as text. Open it "
        "with open(path, 'rb').",
    ),
    (
        [Image.new("L", (5, 5)), io.BytesIO(b"picture")],
        ValueError,
        f"Expected a readable picture in `images[1]`, but got: {UNKNOWN}.",
    ),
    (
        "gone.jpg",
        FileNotFoundError,
        "Expected a picture at gone.jpg, but there is no file.",
    ),
    (
        ["gone.jpg"],
        FileNotFoundError,
        "Expected a picture at gone.jpg (`images[0]`), but there is no file.",
    ),
    (
        [Image.new("L", (5, 5)), "text.jpg"],
        ValueError,
        f"Expected a readable picture at text.jpg (`images[1]`), but got: {UNKNOWN}. Replace or "
        "remove the file.",
    ),
]


@pytest.mark.parametrize(("image", "error", "sentence"), BAD_PICTURES)
def test_bad_pictures(tmp_path, monkeypatch, half_trained, image, error, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    model = half_trained
    with nothing_changes(model), pytest.raises(error) as caught:
        model.predict(image)
    assert str(caught.value) == sentence


ONE, TWO = Image.new("RGB", (60, 40)), [Image.new("RGB", (60, 40)), Image.new("RGB", (60, 40))]
FORM = "to have shape (p, 4), with p of at least 1, but got "
BAD_BOXES = [
    (
        ONE,
        [[0, 0, 61.5, 40]],
        ValueError,
        "Expected box 0 of `images` to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 inside its 60 "
        "x 40 picture, but got (0.0, 0.0, 61.5, 40.0).",
    ),
    (
        TWO,
        [[[0, 0, 9, 9]], [[0, 0, 9, 9], [5, 9, 5, 20]]],
        ValueError,
        "Expected box 1 of `images[1]` to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 inside its "
        "60 x 40 picture, but got (5.0, 9.0, 5.0, 20.0).",
    ),
    (
        "bird.png",
        [[0, 0, 9, 99]],
        ValueError,
        "Expected box 0 of bird.png to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 inside its 60 "
        "x 40 picture, but got (0.0, 0.0, 9.0, 99.0).",
    ),
    (
        ["bird.png"],
        [[[0, 0, 9, 99]]],
        ValueError,
        "Expected box 0 of bird.png (`images[0]`) to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 "
        "inside its 60 x 40 picture, but got (0.0, 0.0, 9.0, 99.0).",
    ),
    (
        torch.zeros(3, 64, 64),
        [[0, 0, 9, 99]],
        ValueError,
        "Expected box 0 of `images` to be (x0, y0, x1, y1) with x0 < x1 and y0 < y1 inside its 64 "
        "x 64 picture, but got (0.0, 0.0, 9.0, 99.0).",
    ),
    (ONE, torch.zeros(1, 3, 3, 32, 32), ValueError, f"Expected `boxes` {FORM}(1, 3, 3, 32, 32)."),
    (ONE, [1, 2, 30, 40], ValueError, f"Expected `boxes` {FORM}(4,)."),
    (ONE, torch.zeros(0, 4), ValueError, f"Expected `boxes` {FORM}(0, 4)."),
    (TWO, [[[0, 0, 9, 9]], [0, 0, 9, 9]], ValueError, f"Expected `boxes[1]` {FORM}(4,)."),
    (
        ONE,
        torch.zeros(2, 5),
        ValueError,
        "Expected the boxes of `images` to have shape (n, 4) with at least one box, but got (2, "
        "5).",
    ),
    (
        ONE,
        [[0, 0, math.nan, 9]],
        ValueError,
        "Expected `boxes` to hold finite numbers, but 1 of its 4 are NaN or infinite.",
    ),
    (
        ONE,
        [torch.zeros(4), torch.zeros(4)],
        TypeError,
        "Expected `boxes` to be a tensor of boxes (p, 4), but got list.",
    ),
    (
        TWO,
        torch.zeros(3, 1, 4),
        ValueError,
        "Expected `boxes` to hold an entry for each of the 2 pictures, but got 3.",
    ),
    (
        TWO,
        5,
        ValueError,
        "Expected `boxes` to hold an entry for each of the 2 pictures, but got int.",
    ),
    (
        TWO,
        torch.tensor(5),
        ValueError,
        "Expected `boxes` to hold an entry for each of the 2 pictures, but got Tensor.",
    ),
    (
        ONE,
        torch.zeros(2, 3, 32, 32),
        ValueError,
        f"Expected `boxes` {FORM}(2, 3, 32, 32). Pass patches as `patches`.",
    ),
]
BAD_PATCHES = [
    (
        ONE,
        [[0, 0, 9, 9]],
        ValueError,
        "Expected `patches` to have shape (p, 3, h, w), with p of at least 1, but got (1, 4). Pass "
        "boxes as `boxes`.",
    ),
    (
        TWO,
        torch.zeros(3, 1, 3, 32, 32),
        ValueError,
        "Expected `patches` to hold an entry for each of the 2 pictures, but got 3.",
    ),
    (
        ONE,
        [[torch.zeros(4), torch.zeros(4)]],
        TypeError,
        "Expected `patches` to be a tensor of patches (p, 3, h, w), but got list.",
    ),
    (
        TWO,
        torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8),
        TypeError,
        "Expected `patches[0]` to be floating point, but got torch.uint8. Convert and normalise "
        "them: (patches[0] / 255 - mean) / std, with the numbers in `data_config`.",
    ),
]


@pytest.mark.parametrize(("image", "boxes", "error", "sentence"), BAD_BOXES)
def test_bad_boxes(tmp_path, monkeypatch, half_trained, image, boxes, error, sentence):
    monkeypatch.chdir(tmp_path)
    ONE.save(tmp_path / "bird.png")
    model = half_trained
    with nothing_changes(model), pytest.raises(error) as caught:
        model.predict(image, boxes=boxes)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("image", "patches", "error", "sentence"), BAD_PATCHES)
def test_bad_patches(tmp_path, monkeypatch, half_trained, image, patches, error, sentence):
    monkeypatch.chdir(tmp_path)
    ONE.save(tmp_path / "bird.png")
    model = half_trained
    with nothing_changes(model), pytest.raises(error) as caught:
        model.predict(image, patches=patches)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("top_k", "error", "sentence"),
    [
        (0, ValueError, "Expected `top_k` to be at least 1, but got 0."),
        (-3, ValueError, "Expected `top_k` to be at least 1, but got -3."),
        (2.5, TypeError, "Expected `top_k` to be a whole number, but got 2.5."),
    ],
)
def test_bad_top_k(model, top_k, error, sentence):
    with pytest.raises(error) as caught:
        model.predict(photo(), top_k=top_k)
    assert str(caught.value) == sentence


@pytest.mark.slow
def test_models_that_take_other_tensors():
    model = make("test_vit3")
    with pytest.raises(ValueError) as caught:
        model.predict([torch.zeros(3, IMAGE, IMAGE), torch.zeros(3, 32, 32)])
    assert str(caught.value) == (
        "Expected `images[1]` of 64 x 64 pixels, the size that 'test_vit3' was built for, but got "
        "shape (1, 3, 32, 32). Resize them, or build the backbone with another `image_size`."
    )
    model = make(in_chans=2)
    for picture in (photo(), "bird.jpg"):
        with pytest.raises(ValueError) as caught:
            model.predict(picture)
        assert str(caught.value) == (
            "Expected `images` to be a normalised tensor (2, h, w) or an array (h, w, 2) of uint8, "
            "because the model has in_chans=2 and files are read as gray, RGB or RGBA."
        )
    images = torch.randn(1, 2, IMAGE, IMAGE)
    patches = torch.randn(1, 2, 2, PATCH, PATCH)
    with torch.no_grad():
        assert_is(model.predict(images[0], patches=patches[0]), model(images, patches))


CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


def in_channels(count):
    look = {"mean": MEAN[:1] if count == 1 else (*MEAN, 0.4)[:count]}
    look["std"] = STD[:1] if count == 1 else (*STD, 0.5)[:count]
    return make(in_chans=count, backbone_kwargs={"pretrained_cfg_overlay": look})


@pytest.mark.slow
@pytest.mark.parametrize("count", CHANNELS)
def test_pictures_are_read_with_the_channels_of_the_model(tmp_path, count):
    model = in_channels(count)
    clear = photo().convert("RGBA")
    clear.putalpha(photo(seed=1).convert("L"))
    clear.save(tmp_path / "bird.png")
    opened = open_picture(clear, mode=CHANNELS[count])
    pixels = np.asarray(opened).reshape(opened.height, opened.width, count)
    mean, std = (torch.tensor(model.data_config[key])[:, None, None] for key in ("mean", "std"))
    boxes = relative(*opened.size)[0]

    def view(box, side):
        x0, y0, x1, y1 = (round(value) for value in box)
        cut = [opened.getchannel(band).crop((x0, y0, x1, y1)) for band in range(count)]
        cut = [band.resize((side, side), Image.Resampling.BICUBIC) for band in cut]
        levels = torch.tensor(np.stack([np.asarray(band) for band in cut])).float()
        return (levels / 255 - mean) / std

    image = view((0, 0, *opened.size), IMAGE)[None]
    patches = torch.stack([view(box, PATCH) for box in boxes.tolist()])[None]
    with torch.no_grad():
        wanted = model(image, patches)
    found = model.predict(tmp_path / "bird.png")
    assert_is(found, wanted, atol=0.05)
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    for source in (clear, opened, np.array(opened), tensor):
        assert model.predict(source) == found
    model.explain(tmp_path / "bird.png").figure()


def test_arrays_of_other_channels():
    model = in_channels(2)
    array = np.random.default_rng(0).integers(0, 255, (40, 50, 2), dtype=np.uint8)
    assert model.predict(array) == model.predict(torch.tensor(array).permute(2, 0, 1))
    model.explain(array).figure()


def test_gray_of_sixteen_bits_for_a_model_of_one_channel(tmp_path):
    model = in_channels(1)
    deep = np.random.default_rng(0).integers(0, 65535, (40, 50), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    eight = Image.fromarray(np.rint(deep / 257).astype(np.uint8))
    assert model.predict(tmp_path / "deep.png") == model.predict(eight)


def test_any_iterable_of_pictures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "PICTURES_PER_PASS_CPU", 1)  # the same arithmetic for each
    for number in range(3):
        photo(seed=number).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    wanted = [model.predict(path) for path in paths]

    def one_by_one():
        yield from paths

    assert sorted(model.predict(tmp_path.glob("*.png"))) == sorted(wanted)
    assert model.predict(one_by_one()) == wanted
    assert model.predict(tuple(map(str, paths))) == wanted
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert model.predict(arrays) == wanted
    boxes = [relative(*photo().size)[0].tolist()] * 3  # lists, not tensors
    assert model.predict(iter(paths), boxes=boxes) == wanted
    assert len(model.explain(iter(paths)).target) == 3


def test_an_iterator_is_read_as_the_pictures_are_answered(model):
    def pictures():
        for _ in range(8):
            yield photo()
        yield "gone.jpg"

    with pytest.raises(FileNotFoundError) as caught:
        model.predict(pictures())
    assert str(caught.value) == (
        "Expected a picture at gone.jpg (`images[8]`), but there is no file."
    )


def test_a_saved_model_predicts_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    photo().save(tmp_path / "bird.png")
    loaded = TwoStreamClassifier.from_pretrained(tmp_path / "model")
    loaded.propose = model.propose
    assert loaded.predict(tmp_path / "bird.png") == model.predict(tmp_path / "bird.png")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(model):
    other = copy.deepcopy(model).cuda()
    for source in (photo(), by_hand(photo())[0][0]):
        wanted, found = model.predict(source), other.predict(source)
        assert found.indices == wanted.indices
        assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-3)
        assert found.boxes == wanted.boxes
    assert other.half().predict(photo()).indices[0] == model.predict(photo()).indices[0]


def test_reversed_boxes_of_numpy_are_boxes():
    """torch takes no negative strides."""
    model, rows = make(num_patches=2), np.array([[0, 0, 20, 30], [5, 5, 40, 40]])
    found = model.predict(photo(), boxes=rows[::-1])
    assert found.boxes == model.predict(photo(), boxes=rows[::-1].tolist()).boxes
    assert [list(box) for box in found.boxes] == rows[::-1].tolist()


def test_pictures_and_normalised_tensors_in_one_list():
    model = make(image_size=64)
    assert model.proposal_size > model.image_size  # where boxes are proposed in a picture
    picture = photo(3)
    tensor = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    alone = [model.predict(tensor), model.predict(picture)]
    together = model.predict([tensor, picture])
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities)
