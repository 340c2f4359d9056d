"""explain for files, PIL images and lists: the same as for tensors made of them."""

import pytest
import torch
from helpers import models
from helpers.models import photo
from PIL import Image

from recurrent_attention.images.views import cut_view, pixels_of
from recurrent_attention.inference import inputs as inference_inputs


def make(**kwargs):
    names = ["wren", "finch", "coot"]
    return models.make(num_classes=3, class_names=names, num_patches=2, hidden_size=8, **kwargs)


def views(model, picture, boxes):
    """`images` (1 3 h w) and `patches` (1 p 3 h w), cut out by hand."""
    look = {key: model.data_config[key] for key in ("mean", "std", "interpolation")}
    whole = torch.tensor([0.0, 0.0, *picture.size])
    patches = [cut_view(pixels_of(picture), torch.tensor(box), 32, **look) for box in boxes]
    image = cut_view(pixels_of(picture), whole, 64, **look)
    return {"images": image[None], "patches": torch.stack(patches)[None]}


FIELDS = ("step_maps", "global_map", "step_weights", "step_logits", "logits", "images", "patches")


def test_a_file_is_explained_where_predict_looks(tmp_path):
    model = make()
    photo(0, (90, 60)).save(tmp_path / "bird.png")
    found = model.explain(tmp_path / "bird.png", target="coot")
    prediction = model.predict(tmp_path / "bird.png")
    picture = photo(0, (90, 60))
    expected = model.explain(**views(model, picture, prediction.boxes), target=2)
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    in_image = torch.tensor(prediction.boxes) * torch.tensor([64 / 90, 64 / 60] * 2)
    torch.testing.assert_close(found.boxes[0], in_image)
    assert found.pictures[0].size == (90, 60)
    assert found.target.tolist() == [2]
    assert found.figure().axes[0].get_xlim() == (0, 90)  # the picture as it is, not the square


def test_a_list_is_explained_as_its_pictures(tmp_path):
    model = make().train()
    pictures = [photo(1, (50, 70)), photo(2, (64, 64)), photo(3, (99, 20))]
    targets = ["finch", 0, 2]
    together = model.explain(pictures, target=targets)
    assert model.training
    assert together.step_maps.shape[:3] == (3, 2, 3)
    for index, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        alone = model.explain(picture, target=target)
        for name in (*FIELDS, "boxes", "target"):
            torch.testing.assert_close(getattr(together, name)[index], getattr(alone, name)[0])
    assert [picture.size for picture in together.pictures] == [(50, 70), (64, 64), (99, 20)]
    # Without a target, each for its own answer.
    own = model.explain(pictures)
    assert torch.equal(own.target, own.logits.argmax(1))


@pytest.mark.parametrize("a_pass", [1, 2])
def test_a_list_names_the_picture_whose_classes_are_alike(a_pass, monkeypatch):
    monkeypatch.setattr(inference_inputs, "PICTURES_PER_PASS_CPU", a_pass)
    pictures = [photo(seed) for seed in range(4)]
    with pytest.raises(ValueError, match=r"both are 'coot' for images\[3\]\. Name the "):
        make().explain([*pictures[:3], "no/file.png"], target=[0, 1, 2, 2], against=[1, 2, 0, 2])
    own = int(make().explain(pictures[3]).target)  # known once the picture is read
    with pytest.raises(ValueError, match=r"both are '.*' for images\[3\]\. Name the "):
        make().explain(pictures, against=[*[(own + 1) % 3] * 3, own])


def test_a_batch_of_bytes_is_explained_as_its_pictures():
    model = make()
    batch = torch.stack([pixels_of(photo(seed, (40, 40))) for seed in (1, 2)])
    for target in (1, [0, 2], None):
        together = model.explain(batch, target=target)
        one_by_one = model.explain([photo(seed, (40, 40)) for seed in (1, 2)], target=target)
        for name in (*FIELDS, "target"):
            assert torch.equal(getattr(together, name), getattr(one_by_one, name))


@pytest.mark.parametrize("several", [list, torch.stack])
def test_patches_that_are_not_normalised_are_refused(several):
    patches = several([torch.zeros(2, 3, 32, 32, dtype=torch.uint8)] * 2)
    with pytest.raises(TypeError, match="^Expected `patches` to be floating point, but got torch"):
        make().explain(torch.randn(2, 3, 64, 64), patches=patches)


def test_boxes_of_a_picture_are_in_its_pixels():
    model = make()
    picture, boxes = photo(0, (90, 60)), [[10.0, 5.0, 40.0, 50.0]]
    expected = model.explain(**views(model, picture, boxes))
    for given in (boxes, torch.tensor(boxes)):
        found = model.explain(picture, boxes=given)
        torch.testing.assert_close(found.step_maps, expected.step_maps)
        scale = torch.tensor([64 / 90, 64 / 60] * 2)
        torch.testing.assert_close(found.boxes[0], torch.tensor(boxes) * scale)


def test_weighted_patches(tmp_path):
    model = make(patch_weighting="linear")
    found = model.explain([photo(1, (50, 70)), photo(2, (64, 64))])
    assert found.patch_weights.shape == (2, 2)
    found.save(tmp_path / "look.png", 1)
    heaviest = found.patch_weights[1].max()
    said = [text.get_text() for axes in found.figure(1).axes for text in axes.texts]
    assert f"{100 * heaviest:.0f} %" in said


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"images": []},
            ValueError,
            "Expected `images` to hold at least one picture, but got none.",
        ),
        (
            {
                "images": [photo(0, (9, 9))] * 2,
                "boxes": [[[0, 0, 9, 9]], [[0, 0, 9, 9], [0, 0, 5, 5]]],
            },
            ValueError,
            "Expected pictures of one explanation to have equally many patches of one size, and "
            "all of them boxes or none, but they differ. Explain them one by one.",
        ),
        ({"images": "no.jpg"}, FileNotFoundError, None),
    ],
)
def test_bad_pictures(arguments, error, message):
    with pytest.raises(error) as caught:
        make().explain(**arguments)
    assert message is None or str(caught.value) == message


def test_patches_and_boxes():
    picture = photo(0, (9, 9))
    for call in (make().explain, make().predict):
        with pytest.raises(ValueError, match="Expected `patches` or `boxes` of pictures, but got"):
            call(picture, patches=torch.zeros(1, 3, 32, 32), boxes=[[0, 0, 9, 9]])


BOXES = torch.tensor([[[0.0, 0, 30, 20], [5, 5, 60, 50]], [[3.0, 3, 40, 40], [9, 0, 20, 30]]])


@pytest.mark.parametrize("form", ["lists", "arrays", "double", "bf16"])
def test_a_normalised_batch_is_taken_as_predict_takes_it(form):
    model, images = make(), torch.randn(2, 3, 64, 64)
    patches = torch.randn(2, 2, 3, 32, 32)
    if form == "bf16":
        model = model.bfloat16()
        images, patches = images.bfloat16(), patches.bfloat16()
    at_boxes, at_patches = (
        model.explain(images, boxes=BOXES),
        model.explain(images, patches=patches),
    )
    as_given = {
        "lists": (images, BOXES.tolist(), list(patches)),
        "arrays": (images, BOXES.numpy(), patches.numpy() if form == "arrays" else None),
        "double": (images.double(), BOXES.double(), patches.double()),
        "bf16": (images.float(), BOXES, patches.float()),
    }[form]
    given, boxes, parts = as_given
    for wanted, found in (
        (at_boxes, model.explain(given, boxes=boxes)),
        (at_patches, model.explain(given, patches=parts)),
    ):
        for field in FIELDS:
            torch.testing.assert_close(getattr(found, field), getattr(wanted, field))
    for one, prediction in zip(at_boxes.logits, model.predict(given, boxes=boxes), strict=True):
        assert int(one.argmax()) == prediction.indices[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(0, 3, 64, 64)}, ValueError, "at least one picture, but got none"),
        (
            {"images": torch.full((2, 3, 64, 64), float("nan"))},
            ValueError,
            r"Expected `images\[0\]` to hold finite numbers",
        ),
        (
            {"images": torch.zeros(2, 3, 64, 64), "boxes": [[[0, 0, 9, 9]]]},
            ValueError,
            "Expected `boxes` to hold an entry for each of the 2 pictures, but got 1",
        ),
        (
            {
                "images": torch.zeros(2, 3, 64, 64),
                "patches": [torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32)],
            },
            ValueError,
            "equally many patches of one size, but got",
        ),
    ],
)
def test_bad_batches(arguments, error, message):
    with pytest.raises(error, match=message):
        make().explain(**arguments)


@pytest.mark.parametrize("error", ["zero bytes", "text"])
def test_files_that_are_no_pictures(tmp_path, error):
    path = tmp_path / "bird.jpg"
    path.write_bytes(b"" if error == "zero bytes" else b"not a picture")
    model = make().train()
    with pytest.raises(ValueError, match="bird.jpg"):
        model.explain(path)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("size", [(1, 1), (20000, 10)])
def test_pictures_of_odd_sizes(size):
    found = make().explain(Image.new("RGB", size, (90, 20, 50)))
    assert found.logits.isfinite().all()
    found.figure()


def test_a_name_of_several_classes_is_refused():
    names = ("crane", "crane", "003.Grey_heron", "4_Grey heron", "owl")
    model = models.make(num_classes=5, class_names=names)
    for name, places in (("crane", "0, 1"), ("Grey heron", "2, 3")):
        for words in ({"target": name}, {"target": "owl", "against": name}):
            with pytest.raises(ValueError, match=f"^Expected `.*` .*'{name}'.* several: {places}"):
                model.explain(photo(), **words)
    assert int(model.explain(photo(), target="4_Grey heron").target) == 3
    assert int(model.explain(photo(), target="owl", against=0).against) == 0


@pytest.mark.parametrize("head", ["global_head", "local_head"])
@pytest.mark.parametrize("weighting", ["equal", "anytime"])
def test_answers_that_are_no_numbers_are_refused(head, weighting):
    model = models.make(patch_weighting=weighting)
    with torch.no_grad():
        getattr(model, head).weight[1, 0] = torch.nan
    words = {"boxes": [[0, 0, 30, 30]]}
    sure = words | ({"confidence": 1.0} if weighting == "anytime" else {})
    for call, given in ((model.predict, words), (model.predict, sure), (model.explain, words)):
        with pytest.raises(ValueError, match="^Expected the model to answer with finite numbers"):
            call(photo(), **given)


def test_a_model_without_a_box_to_propose_says_so():
    model = models.make()
    model.num_patches = 0
    for call in (model.predict, model.explain):
        with pytest.raises(ValueError, match="^Expected `num_patches` to be .*, but got 0"):
            call(photo())
