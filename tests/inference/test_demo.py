"""The demo's page: what it computes, what it says of what it cannot read, what it leaves alone."""

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import gradio
import numpy as np
import pytest
import torch
from gradio.state_holder import SessionState
from helpers.models import make, photo
from PIL import Image

from recurrent_attention.inference.demo import build_demo
from recurrent_attention.inference.demo_looks import (
    draw_boxes,
    draw_look,
    explain_again,
    explain_file,
    looks_of,
)
from recurrent_attention.inference.demo_page import DemoPage
from recurrent_attention.inference.demo_tables import sentence, table_of_classes, table_of_looks
from recurrent_attention.inference.sheet import PATCH_COLORS, pixels_of_figure

NAMES = ("001.Black_auk", "002.Emu", "003.<b>Owl", "004.Wren", "005.Rhea")


@pytest.fixture(scope="module", params=["equal", "linear", "anytime"])
def model(request):
    """One that looks three times at each of two patches; two that weigh six patches."""
    count = {"equal": 2, "linear": 6, "anytime": 6}[request.param]
    heats = {"equal": (0.5, 3.0), "linear": None, "anytime": (0.5, 3.0)}[request.param]
    return make(
        class_names=NAMES, num_patches=count, patch_weighting=request.param, temperatures=heats
    )


@pytest.fixture(scope="module")
def page(model):
    return DemoPage(model, "Birds")


@pytest.fixture
def picture(tmp_path):
    """A photo that its EXIF data turn."""
    path = tmp_path / "bird 1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(3).save(path, exif=exif, quality=95)
    return str(path)


def cells(html):
    """The texts of a table, row by row, without its head."""
    rows = re.findall(r"<tr.*?</tr>", html.partition("<tbody>")[2])
    found = []
    for row in rows:
        texts = re.findall(r"<t[hd].*?</t[hd]>", row)
        found.append([unescape(re.sub("<.*?>", "", text)).replace("\xa0", " ") for text in texts])
    return found


def test_names_and_shares_are_those_of_predict(model, picture):
    wanted = model.predict(picture)
    looks = looks_of(explain_file(model, picture))
    assert looks.target == wanted.indices[0]
    rows = cells(table_of_classes(looks))
    plain = {"001.Black_auk": "Black auk", "003.<b>Owl": "<b>Owl"}
    names = [plain.get(name, name[4:]) for name in wanted.class_names]
    assert [row[0] for row in rows] == names
    for row, index, share in zip(rows, wanted.indices, wanted.probabilities, strict=True):
        assert row[1] == f"{100 * share:.1f} %"
        assert float(looks.streams[0, index]) == pytest.approx(share, abs=1e-6)
    for stream, name in ((1, wanted.global_class), (2, wanted.local_class)):
        assert NAMES[int(looks.streams[stream].argmax())] == name


def test_what_a_stream_alone_answers_is_in_the_table(model, picture):
    looks = looks_of(explain_file(model, picture))
    streams = torch.full((3, 9), 0.05)
    for stream, best in ((0, 1), (1, 8), (2, 7)):
        streams[stream, best] = 0.6
    many = replace(looks, names=tuple(f"n{i}" for i in range(9)), streams=streams)
    assert [row[0] for row in cells(table_of_classes(many))] == [
        "n1", "n0", "n2", "n3", "n4", "n8", "n7",
    ]  # fmt: skip


def test_boxes_are_those_of_predict_in_the_order_of_the_figure(model, picture):
    found = explain_file(model, picture)
    looks = looks_of(found)
    wanted = torch.tensor(model.predict(picture).boxes)
    if found.patch_weights is not None and found.prefix_logits is None:
        wanted = wanted[found.patch_weights[0].argsort(descending=True, stable=True)]
    assert torch.tensor(looks.boxes) == pytest.approx(wanted, abs=1e-3)
    assert looks.picture.size == (70, 90)  # upright


def test_looks_are_those_of_explain(model, picture):
    found = model.explain(picture, target=3)
    looks = looks_of(explain_again(model, explain_file(model, picture), 3))
    assert looks.target == 3
    if found.patch_weights is None:
        weights, logits, maps = found.step_weights[0], found.step_logits[0], found.step_maps[0]
    else:
        order = found.patch_weights[0].argsort(descending=True, stable=True)
        if found.prefix_logits is not None:
            order = order.sort().values
        weights = found.patch_weights[:, order]
        logits, maps = found.step_logits[0, order, 0][None], found.step_maps[0, order, 0][None]
    assert looks.weights == pytest.approx(weights, abs=1e-6)
    assert looks.answers == pytest.approx(logits.softmax(-1), abs=1e-6)
    rows, columns = maps.shape[-2:]  # in the strip a cell speaks for a whole view, too
    assert looks.maps / (rows * columns) == pytest.approx(maps, abs=1e-6)
    assert looks.weights.sum(1) == pytest.approx(torch.ones(len(looks.weights)))
    group = len(weights) - 1
    rows = cells(table_of_looks(looks, group, 1))
    for number, (row, weight, answer) in enumerate(
        zip(rows, weights[group], logits[group].softmax(-1), strict=True), 1
    ):
        assert row[:2] == [str(number), f"{100 * weight:.1f} %"]
        best = unescape(looks.names[int(answer.argmax())])
        assert row[2:] == [f"{best} {100 * answer.max():.0f} %", f"{100 * answer[3]:.0f} %"]


def test_the_look_that_is_shown_is_marked(model, picture):
    looks = looks_of(explain_file(model, picture))
    marked = re.findall(r"<tr([^>]*)>", table_of_looks(looks, 0, 1).partition("<tbody>")[2])
    assert ["chosen" in mark for mark in marked] == [
        look == 1 for look in range(len(looks.weights[0]))
    ]


def test_another_class_has_the_maps_of_explain_and_the_same_answer(model, picture):
    found = explain_file(model, picture)
    again = explain_again(model, found, 4)
    assert again.target.tolist() == [4]
    assert torch.equal(again.images, found.images)
    assert torch.equal(again.patches, found.patches)
    assert again.logits == pytest.approx(found.logits, abs=1e-6)
    wanted = model.explain(picture, target="005.Rhea")
    assert again.global_map == pytest.approx(wanted.global_map, abs=1e-6)
    assert again.pictures[0].size == (70, 90)


def test_boxes_are_drawn_where_they_are(model, picture):
    looks = looks_of(explain_file(model, picture))
    white = replace(looks, picture=Image.new("RGB", (100, 80), "white"), boxes=[[20, 10, 70, 60]])
    drawn = np.asarray(pixels_of_figure(draw_boxes(white), dpi=100)).astype(int)
    color = np.array([int(PATCH_COLORS[0][i : i + 2], 16) for i in (1, 3, 5)])
    rows, columns = np.nonzero(np.abs(drawn - color).sum(-1) < 30)
    height, width = drawn.shape[:2]
    assert width / height == pytest.approx(100 / 80, abs=0.01)
    edges = [columns.min() / width, rows.min() / height, columns.max() / width, rows.max() / height]
    assert edges == pytest.approx([0.2, 0.125, 0.7, 0.75], abs=0.01)


def test_a_look_is_drawn_with_its_own_map_on_one_scale(model, picture):
    looks = looks_of(explain_file(model, picture))
    maps = torch.zeros_like(looks.maps)
    maps[0, 1] = 1.0
    looks = replace(looks, maps=maps)
    empty, full = (
        np.asarray(pixels_of_figure(draw_look(looks, 0, look), dpi=50)).astype(int)
        for look in (0, 1)
    )
    # The map without strength is gray; that of full strength has the colour of the scale's end.
    middle = empty.shape[0] // 2, empty.shape[1] * 6 // 10
    assert np.ptp(empty[middle]) < 3
    assert np.ptp(full[middle]) > 60


def nothing_shown(page, handler, *given):
    """Whether Gradio takes what a handler returns, and changes none of its outputs by it."""
    function = next(f for f in page.blocks.fns.values() if f.name == handler.__name__)
    blocks = page.blocks
    shown = asyncio.run(blocks.postprocess_data(function, handler(*given), SessionState(blocks)))
    assert len(shown) == len(function.outputs) > 1
    return "value" not in str(shown)


@pytest.mark.slow
def test_the_page_answers_and_then_explains_another_class(model, page, picture):
    shown = page.on_file(picture)
    wanted = model.predict(picture)
    looks = shown[page.found]
    assert f"{looks.names[looks.target]}, " in unescape(shown[page.headline])
    assert f"{100 * wanted.probabilities[0]:.1f} %" in shown[page.headline]
    assert "bird 1.jpg" in shown[page.headline]
    assert shown[page.target].value == looks.target
    assert [value for _, value in shown[page.target].choices] == list(range(5))
    assert shown[page.results].visible
    assert not shown[page.message].visible
    other = (looks.target + 1) % 5
    again = page.on_target(looks, 0, 2, other)
    assert again[page.rows] == table_of_looks(again[page.found], 0, 1)
    assert nothing_shown(page, page.on_target, again[page.found], 0, 2, other)
    assert again[page.found].target == other
    drawn = [np.asarray(update[page.strip]) for update in (shown, again)]
    wanted = np.asarray(pixels_of_figure(model.explain(picture, target=other).figure()))
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any()
    assert drawn[1].shape == wanted.shape
    assert np.abs(drawn[1].astype(int) - wanted).mean() < 0.1
    last = len(looks.weights[0])
    moved = page.on_look(again[page.found], 0, last + 7)  # typed, beyond the end
    assert moved[page.rows] == table_of_looks(again[page.found], 0, last - 1)
    wanted = pixels_of_figure(draw_look(again[page.found], 0, last - 1))
    assert np.array_equal(np.asarray(moved[page.shown]), np.asarray(wanted))
    assert nothing_shown(page, page.on_target, None, 0, 1, 2)
    assert nothing_shown(page, page.on_look, None, 0, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"no picture", "data in none of the formats JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, AVIF"),
        ("cut", "image file is truncated"),
    ],
)
def test_what_is_no_picture_is_said_in_a_sentence(page, picture, tmp_path, content, reason):
    path = tmp_path / "<i>x.jpg"
    path.write_bytes(Path(picture).read_bytes()[:700] if content == "cut" else content)
    shown = page.on_file(str(path))
    said = shown[page.message].value
    assert f"Expected a readable picture in &lt;i&gt;x.jpg, but got: {reason}" in said
    assert str(tmp_path) not in said
    assert shown[page.message].visible
    assert not shown[page.results].visible
    assert shown[page.found] is None


def test_names_from_outside_are_no_markup():
    assert "<b>" not in sentence("<b>") + sentence("\x1b[2J")
    assert r"\x1b" in sentence("\x1b[2J")


@pytest.mark.slow
def test_the_model_stays_as_it_is(picture):
    model = make(class_names=NAMES, num_patches=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    page = DemoPage(model, "Birds")
    looks = page.on_file(picture)[page.found]
    page.on_target(looks, 0, 1, (looks.target + 1) % 5)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_it_reports_nothing_loads_no_font_and_answers_one_at_a_time(model):
    blocks = build_demo(model, title="Birds")
    assert isinstance(blocks, gradio.Blocks)
    assert blocks.title == "Birds"
    assert blocks.analytics_enabled is False
    theme = blocks.launch.keywords["theme"]
    assert theme._font_css == [] == [s for s in theme._stylesheets if "http" in str(s)]
    assert {fn.concurrency_limit for fn in blocks.fns.values()} == {1}
    assert {fn.concurrency_id for fn in blocks.fns.values()} == {"model"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_gray_and_transparent_pictures_for_models_of_such_channels(count, tmp_path):
    model = make(in_chans=count, num_steps=1, class_names=None)
    photo().save(tmp_path / "x.png")
    looks = looks_of(explain_file(model, str(tmp_path / "x.png")))
    assert looks.picture.mode == "RGB"
    assert looks.names[:2] == ("class 0", "class 1")
    page = DemoPage(model, "Birds")
    shown = page.on_file(str(tmp_path / "x.png"))
    assert not shown[page.group].visible
    assert not shown[page.look].visible  # there is one patch, and one look


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError) as error:
        build_demo("birds")
    assert str(error.value) == "Expected `model` to be a TwoStreamClassifier, but got str."
    with pytest.raises(ValueError) as error:
        build_demo(make(in_chans=5))
    assert str(error.value) == (
        "Expected a model that takes pictures of 1, 3 or 4 channels, but got one with in_chans=5, "
        "as which no picture file is read."
    )


@pytest.mark.slow
def test_without_gradio_it_says_what_to_install():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from recurrent_attention import TwoStreamClassifier\n"
        "from recurrent_attention.inference.demo import build_demo\n"
        "build_demo(TwoStreamClassifier('test_resnet', 2, image_size=32, patch_size=32))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().endswith(
        "ImportError: Expected gradio for the demo, but it is not installed: "
        "pip install 'recurrent-attention[demo]'."
    )
