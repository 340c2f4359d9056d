"""Patches for a data set without any: the global head is trained, and says where to look."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from recurrent_attention import TwoStreamClassifier, _modes
from recurrent_attention.data import (
    Pictures,
    TwoStreamDataset,
    read_boxes,
    write_boxes,
)
from recurrent_attention.images import open_picture
from recurrent_attention.images.views import cut_view, pixels_of
from recurrent_attention.ops.proposal import propose_boxes, propose_mixed_boxes
from recurrent_attention.training import (
    Recipe,
    fit,
    fit_global_head,
    proposals,
    propose_boxes_for,
)

QUIET = {"device": "cpu", "progress": False}


def make(classes=2, **kwargs):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 32, "hidden_size": 8, "num_patches": 3} | kwargs
    return TwoStreamClassifier("test_resnet", classes, **sizes)


def whole(model, picture, side):
    look = {name: model.data_config[name] for name in ("mean", "std", "interpolation")}
    return cut_view(pixels_of(picture), torch.tensor([0.0, 0.0, *picture.size]), side, **look)[None]


def accuracy(model, pictures):
    right = 0
    for picture, label in pictures:
        with torch.no_grad():
            logits = model.eval().classify_global(model.global_backbone(whole(model, picture, 32)))
        right += int(logits.argmax()) == label
    return right / len(pictures)


def test_many_pictures_take_one_view_and_each_file_is_read_once_for_its_key(tmp_path, monkeypatch):
    """A view of the model in eval mode for each picture took more time than a small backbone."""
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / name)
    pictures = Pictures(tmp_path, names, [0, 1] * 3, ["a", "b"])
    model = make().train()
    views, contents = [], []
    view_of, content = _modes.view_of, Pictures.content
    monkeypatch.setattr(_modes, "view_of", lambda one: views.append(one) or view_of(one))
    monkeypatch.setattr(Pictures, "content", lambda *a: contents.append(a) or content(*a))
    fit_global_head(model, pictures, recipe=Recipe(epochs=1, freeze=True), **QUIET)
    boxes = propose_boxes_for(model, pictures, **QUIET)
    assert len(views) == 3  # for the features, for the epochs, for the boxes
    assert len(contents) == 2 * len(names)
    data = TwoStreamDataset.for_model(model, pictures, boxes, train=True)
    fit(model, data, recipe=Recipe.heads_only(epochs=1, batch_size=2), **QUIET)
    assert len(contents) == 3 * len(names)


def test_a_large_jpeg_is_decoded_in_part_where_the_view_is_small(tmp_path, monkeypatch):
    """Of 1280 x 600 pixels a half leaves 300, twice the 128 of the view and more; a quarter not."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1280, 600)).save(tmp_path / "large.jpg")
    open_picture(tmp_path / "large.jpg").save(tmp_path / "large.png")
    model = make(image_size=64, patch_size=64)
    found, asked, opened = {}, [], Pictures.open
    monkeypatch.setattr(
        Pictures,
        "open",
        lambda *a, reduction: asked.append(reduction) or opened(*a, reduction=reduction),
    )
    for name in ("large.jpg", "large.png"):
        pictures = Pictures(tmp_path, [name], [0], ["a"])
        found[name] = propose_boxes_for(model, pictures, **QUIET)[name]
    assert model.proposal_size == 128
    assert asked == [2, 2]
    assert torch.equal(found["large.jpg"], found["large.png"])


@pytest.mark.parametrize("global_head", ["linear", "conv"])
def test_the_global_head_learns_and_nothing_else_changes(colored_pictures, global_head):
    pictures, _ = colored_pictures
    model = make(global_head=global_head).train()
    model.global_backbone.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    fit_global_head(model, pictures, recipe=Recipe(epochs=60, batch_size=8, head_lr=3e-2), **QUIET)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.split(".")[0] for name in changed} <= {"global_head", "global_convs"}
    assert "global_head.weight" in changed
    assert accuracy(model, pictures) > 0.95


def test_what_the_caller_left_on_the_model_stays(colored_pictures):
    """Modes of a model in eval mode, and gradients of what is not trained."""
    pictures, _ = colored_pictures
    model = make().eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    head, others = make(), {}
    for name, parameter in model.named_parameters():
        if not name.startswith("global_head"):
            others[name] = parameter.detach().clone()
    recipe = Recipe(epochs=2, batch_size=8)
    fit_global_head(model, pictures, recipe=recipe, **QUIET)
    fit_global_head(head, pictures, recipe=recipe, **QUIET)
    assert not any(module.training for module in model.modules())
    found = dict(model.named_parameters())
    assert all(torch.equal(found[name], before) for name, before in others.items())
    assert all(torch.equal(found[name].grad, torch.ones_like(found[name])) for name in others)
    assert torch.equal(
        model.global_head.weight, head.global_head.weight
    )  # started from no gradient


def test_too_many_classes(colored_pictures):
    with pytest.raises(ValueError, match="at most 1 classes, as the model has, but got 2"):
        fit_global_head(make(classes=1), colored_pictures[0], **QUIET)


def test_boxes_are_those_of_the_model(tmp_path):
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate([(48, 40), (30, 64), (64, 64)]):
        noise = generator.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(tmp_path / f"{number}.png")
    pictures = Pictures(tmp_path, ["0.png", "1.png", "2.png"], [0, 0, 0], ["noise"])
    model = make()
    assert model.proposal_size == 64  # twice the image: its map has 2 cells a side, 14 are wanted
    boxes = propose_boxes_for(model, pictures, cache_dir=tmp_path / "cache", **QUIET)
    assert list(boxes) == list(pictures.names)
    for index in range(3):
        picture, _ = pictures[index]
        width, height = picture.size
        expected = (
            model.propose(whole(model, picture, 64))[0] / 64 * torch.tensor([width, height] * 2)
        )
        torch.testing.assert_close(boxes[pictures.names[index]], expected)
    TwoStreamDataset(pictures, boxes, num_patches=3)  # all of them are inside


def test_the_cache_is_of_the_pictures_and_the_weights(colored_pictures, tmp_path, monkeypatch):
    pictures, _ = colored_pictures
    model = make()
    first = propose_boxes_for(model, pictures, cache_dir=tmp_path, **QUIET)
    asked = []
    propose = TwoStreamClassifier.propose
    monkeypatch.setattr(
        TwoStreamClassifier, "propose", lambda *args: asked.append(1) or propose(*args)
    )
    again = propose_boxes_for(model, pictures, cache_dir=tmp_path, **QUIET)
    assert not asked
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.nn.init.normal_(model.global_head.weight)
    propose_boxes_for(model, pictures.subset([1, 2]), cache_dir=tmp_path, **QUIET)
    assert len(asked) == 2
    torch.nn.init.normal_(model.local_head.weight)  # the local stream has no say
    propose_boxes_for(model, pictures.subset([1, 2]), cache_dir=tmp_path, **QUIET)
    assert len(asked) == 2
    monkeypatch.setattr(proposals, "EDITION", 0)  # of a version that proposes in another way
    propose_boxes_for(model, pictures.subset([1, 2]), cache_dir=tmp_path, **QUIET)
    assert len(asked) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "image_size", "side"),
    [
        ("test_resnet", 64, 128),  # twice is the most
        ("test_resnet", 320, 448),  # 14 cells
        ("test_resnet", 512, 512),  # has 16
        ("test_vit", 160, 224),  # its patches are 16 pixels wide
    ],
)
def test_proposal_size(backbone, image_size, side):
    model = TwoStreamClassifier(backbone, 2, image_size=image_size, patch_size=image_size)
    assert model.proposal_size == side
    model.global_backbone.fixed_size = True
    assert model.proposal_size == image_size


def test_three_of_ten_boxes_are_wide():
    salient = torch.rand(2, 14, 14, generator=torch.Generator().manual_seed(0))
    found = propose_mixed_boxes(salient, (200, 400), 10, -0.5)
    common = {"cell_offset": -0.5}
    small = propose_boxes(salient, (200, 400), num_boxes=7, **common)
    wide = propose_boxes(salient, (200, 400), num_boxes=3, window_sides=(0.5, 0.6, 0.7), **common)
    assert torch.equal(found, torch.cat([small, wide], dim=1))
    for few in (1, 3):
        found = propose_mixed_boxes(salient, (200, 400), few, -0.5)
        assert torch.equal(found, propose_boxes(salient, (200, 400), num_boxes=few, **common))


def test_boxes_in_a_file(colored_pictures, tmp_path):
    pictures, boxes = colored_pictures
    boxes = {name: rows.clone() / 3 for name, rows in boxes.items()}
    path = tmp_path / "new" / "boxes.json"
    path.parent.mkdir()
    write_boxes(path, boxes)
    found = read_boxes(path, pictures.subset([3, 1]))
    assert list(found) == [pictures.names[3], pictures.names[1]]
    for name, rows in found.items():
        assert torch.equal(rows, boxes[name])  # to the last bit: the cache of features hangs on it
    assert '"00.png": [\n[\n0.6666667,\n' in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["boxes.json"]


def test_boxes_in_a_file_of_tensors(colored_pictures, tmp_path):
    pictures, boxes = colored_pictures
    boxes = {name: rows[: 1 + number % 3] / 3 for number, (name, rows) in enumerate(boxes.items())}
    path = tmp_path / "boxes.safetensors"
    write_boxes(path, boxes)
    for some in (pictures, pictures.subset([3, 1]), pictures.subset([*range(len(pictures))][::-1])):
        found = read_boxes(path, some)
        assert list(found) == list(some.names)
        for name, rows in found.items():
            assert torch.equal(rows, boxes[name])
    write_boxes(tmp_path / "again.json", read_boxes(path, pictures))
    write_boxes(tmp_path / "straight.json", boxes)
    texts = [(tmp_path / name).read_text() for name in ("again.json", "straight.json")]
    assert texts[0] == texts[1]
    others = Pictures(tmp_path, ["b.png"], [0], ["wren"])
    with pytest.raises(ValueError) as caught:
        read_boxes(path, others)
    assert str(caught.value).startswith("Expected boxes for b.png, but the 16 given are of other")


def tensors(**changed):
    good = {
        "boxes": torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]]),
        "ends": torch.tensor([1, 2]),
        "names": torch.tensor([*b"a.png\0b.png\0"], dtype=torch.uint8),
    }
    return {name: tensor for name, tensor in (good | changed).items() if tensor is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"boxes": torch.tensor([[0.0, 0, 5, 5], [9, 1, 9, 9]])}, "got [9.0, 1.0, 9.0, 9.0] for b"),
        ({"boxes": torch.tensor([[0.0, 0, torch.nan, 5], [1, 1, 9, 9]])}, "nan, 5.0] for a.png"),
        ({"boxes": torch.ones(2, 5)}, "but got: 2 names and boxes (2, 5)."),
        ({"boxes": torch.ones(2, 4, dtype=torch.int32)}, "but got: 2 names and boxes (2, 4)."),
        ({"ends": torch.tensor([0, 2])}, "but got: 2 names and boxes (2, 4)."),
        ({"ends": torch.tensor([3, 2])}, "but got: 2 names and boxes (2, 4)."),
        ({"ends": torch.tensor([2])}, "but got: 2 names and boxes (2, 4)."),
        ({"names": torch.tensor([*b"a\0a\0"], dtype=torch.uint8)}, "2 names and boxes (2, 4)."),
        ({"names": None}, "but got: 'names'."),
        (None, "but got: "),
    ],
)
def test_bad_files_of_tensors(tmp_path, changed, message):
    path = tmp_path / "boxes.safetensors"
    pictures = Pictures(tmp_path, ["b.png"], [0], ["wren"])
    if changed is None:
        path.write_bytes(b"half a file")
    else:
        save_file(tensors(**changed), path)
    if message is None:
        assert read_boxes(path, pictures)["b.png"].tolist() == [[1, 1, 9, 9]]
        return
    with pytest.raises(ValueError) as caught:
        read_boxes(path, pictures)
    assert str(caught.value).startswith("Expected ")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Expected a file of boxes at .*, but there is no file"),
        ("[1, 2]", 'to hold {"boxes": {"NAME"'),
        ("{", 'to hold {"boxes": {"NAME"'),
        ('{"boxes": {"a.png": "x"}}', 'to hold {"boxes": {"NAME"'),
        ('{"boxes": {}}', "Expected boxes for a.png, but the 0 given are of other pictures"),
        ('{"boxes": {"a.png": [[0, 0, 99, 9]]}}', "Expected box 0 of a.png to be"),
        ('{"boxes": {"a.png": []}}', "Expected the boxes of a.png to have shape"),
    ],
)
def test_bad_files_of_boxes(tmp_path, text, message, colored_pictures):
    source, _ = colored_pictures
    (tmp_path / "a.png").write_bytes(source.path(0).read_bytes())
    pictures = Pictures(tmp_path, ["a.png"], [0], ["wren"])
    if text is not None:
        (tmp_path / "boxes.json").write_text(text)
    error = FileNotFoundError if text is None else ValueError
    with pytest.raises(error, match=message):
        read_boxes(tmp_path / "boxes.json", pictures)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "boxes.json"
    write_boxes(path, {"a": torch.ones(1, 4)})
    before = path.read_text()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_boxes(path, {"a": torch.zeros(1, 4)})
    monkeypatch.undo()
    assert path.read_text() == before
    assert json.loads(before) == {"boxes": {"a": [[1.0, 1.0, 1.0, 1.0]]}}
    assert list(tmp_path.iterdir()) == [path]
