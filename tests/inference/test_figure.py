"""The strip that an explanation draws: what it says, that nothing overlaps, and how it is saved."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager, rcParams
from matplotlib.colors import to_rgb
from PIL import Image

from recurrent_attention import Explanation
from recurrent_attention.inference import sheet as figure_sheet
from recurrent_attention.inference.sheet import wrapped
from recurrent_attention.inference.target_class import readable
from recurrent_attention.ops.cell_offset import resample_cells

NAMES = (
    "004.Red_crowned_Finch",
    "n02085620-Chihuahua",
    "A_very_long_winded_name_of_a_bird_that_nobody_has_ever_seen_anywhere",
    "Cash $5 and $6",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenvogel",
)


def explanation(steps=4, patches=1, *, batch=2, channels=3, size=(40, 40), names=NAMES, peak=1.0):
    generator = torch.Generator().manual_seed(steps + 10 * patches)

    def rand(*shape):
        return torch.rand(shape, generator=generator)

    corners = 20 * rand(batch, patches, 2)
    return Explanation(
        step_maps=peak * rand(batch, patches, steps, 3, 3),
        global_map=peak * rand(batch, 4, 4),
        step_weights=(2 * rand(batch, patches, steps)).softmax(-1),
        patch_weights=None,
        step_logits=3 * rand(batch, patches, steps, 5),
        logits=3 * rand(batch, 5),
        global_logits=3 * rand(batch, 5),
        local_logits=3 * rand(batch, 5),
        target=torch.tensor([2, 0])[:batch],
        images=rand(batch, channels, *size),
        patches=rand(batch, patches, channels, 24, 24),
        boxes=torch.cat([corners, corners + 15], dim=-1),
        pictures=(None,) * batch,
        cell_offsets=lambda: (-0.5, 0.0),
        class_names=names,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


def texts(figure):
    figure.draw_without_rendering()
    return [
        text
        for text in figure.findobj(lambda a: hasattr(a, "get_text") and a.get_visible())
        if text.get_text().strip()
    ]


def words(figure):
    return [text.get_text() for text in texts(figure)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "patches", "peak"),
    [
        *((steps, patches, 1.0) for steps in (1, 4, 7, 10, 20) for patches in (1, 2, 3)),
        *((4, 2, peak) for peak in (0.0, 1.23e-5, 54321.0)),
    ],
)
def test_no_text_overlaps_or_is_cut_off(steps, patches, peak):
    figure = explanation(steps, patches, peak=peak).figure()
    whole = figure.bbox
    written = texts(figure)
    places = [text.get_window_extent() for text in written]
    # The numbers on boxes belong on the picture, and may lie on each other.
    free = [
        i
        for i, text in enumerate(written)
        if not (text.axes and text.get_text() in ("1", "2", "3"))
    ]
    assert len(free) >= 2 * steps
    for i in free:
        assert whole.x0 <= places[i].x0 < places[i].x1 <= whole.x1, written[i]
        assert whole.y0 <= places[i].y0 < places[i].y1 <= whole.y1, written[i]
        for j in free:
            overlap = places[i].intersection(places[i], places[j])
            assert i == j or overlap is None or min(overlap.width, overlap.height) < 1, (
                written[i],
                written[j],
            )


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 80), (80, 16)])
@pytest.mark.parametrize("patches", [1, 2])
def test_pictures_of_any_shape_leave_room_for_their_words(size, patches):
    figure = explanation(3, patches, size=size).figure()
    places = [text.get_window_extent() for text in texts(figure) if text.axes is None]
    for i, one in enumerate(places):
        for other in places[:i]:
            overlap = one.intersection(one, other)
            assert overlap is None or min(overlap.width, overlap.height) < 1


def test_it_says_what_each_step_would_answer_and_its_weight():
    found = explanation(4, 1)
    said = words(found.figure(1))
    for step in range(4):
        probabilities = found.step_logits[1, 0, step].softmax(0)
        best = int(probabilities.argmax())
        name = wrapped(readable(NAMES[best]), 1.0).replace("$", r"\$")
        assert f"{name}\n{100 * probabilities[best]:.0f} %" in said
        assert f"{100 * found.step_weights[1, 0, step]:.0f} %" in said
        assert f"step {step + 1}" in said
    assert "What speaks for Red crowned Finch" in said
    together = (found.step_weights[1, 0, :, None] * found.step_logits[1, 0]).sum(0).softmax(0)
    assert any(
        s.startswith("all steps:") and s.endswith(f"{100 * together.max():.0f} %") for s in said
    )
    assert "1/4" in said


def weighted(patches):
    """One look at each patch, weighted; the last is the heaviest."""
    weights = torch.arange(1.0, patches + 1).expand(2, -1)
    return replace(explanation(1, patches), patch_weights=weights / weights.sum(1, keepdim=True))


@pytest.mark.parametrize("patches", [1, 2, 4, 12])
def test_weighted_patches_stand_side_by_side_heaviest_first(patches):
    found = weighted(patches)
    figure = found.figure()
    said, shown = words(figure), min(patches, 10)
    maps = [axes for axes in figure.axes if len(axes.images) == 2][1:]  # the first is the global
    assert len(maps) == shown
    assert len({round(axes.bbox.y0) for axes in maps}) == 1
    for place, axes in enumerate(sorted(maps, key=lambda axes: axes.bbox.x0)):
        number = patches - 1 - place
        (cells,) = resample_cells(9 * found.step_maps[0, number], (24, 24), 0.0)
        torch.testing.assert_close(torch.from_numpy(np.array(axes.images[1].get_array())), cells)
        assert f"{100 * found.patch_weights[0, number]:.0f} %" in said
    left = 100 * float(found.patch_weights[0, : patches - shown].sum())
    note = f"the heaviest 10 of {patches} patches; the others have {left:.0f} % of the weight"
    assert (note in said) == (patches > 10)
    assert not any("step" in text for text in said)
    places = [text.get_window_extent() for text in texts(figure) if text.axes is None]
    for i, one in enumerate(places):
        for other in places[:i]:
            overlap = one.intersection(one, other)
            assert overlap is None or min(overlap.width, overlap.height) < 1


def by_looks(patches, **changes):
    """Like `weighted`, of a model that answers after each look."""
    found = weighted(patches)
    after = torch.rand(2, patches, 5, generator=torch.Generator().manual_seed(patches))
    after[:, -1] = found.logits
    return replace(found, prefix_logits=after, **changes)


def test_the_probabilities_of_the_streams_are_those_of_predict():
    """Divided by the temperature of 0 looks and of all of them."""
    for found in (by_looks(3), explanation(2, 3)):
        found = replace(found, temperatures=(2.0, 9.0, 9.0, 0.5))
        said = words(found.figure())
        for who, logits, heat in (
            ("both streams:", found.logits[0], 0.5),
            ("global stream:", found.global_logits[0], 2.0),
        ):
            share = f"{100 * (logits / heat).softmax(0).max():.0f} %"
            assert share != f"{100 * logits.softmax(0).max():.0f} %"
            of_stream = [text for text in said if text.startswith(who)]
            # Of a model that answers after each look the line has the answer after 0 looks.
            assert all(text.endswith(share) for text in of_stream)
            assert of_stream or found.prefix_logits is not None


@pytest.mark.parametrize("patches", [1, 3, 10])
def test_the_answer_after_a_look_is_under_that_look(patches):
    figure = by_looks(patches).figure()
    figure.draw_without_rendering()
    middles = {
        text.get_text(): text.get_window_extent()
        for text in texts(figure)
        if text.axes is None and (text.get_text().isdecimal() or "patch" in text.get_text())
    }
    for look in range(1, patches + 1):
        above, below = middles[f"patch {look}"], middles[f"{look}"]
        assert (above.x0 + above.x1) / 2 == pytest.approx((below.x0 + below.x1) / 2, abs=0.5)
        assert above.y0 > below.y1


def test_the_four_heaviest_looks_have_colours():
    figure = weighted(6).figure()  # heaviest first
    first, fifth = (next(t for t in texts(figure) if t.get_text() == f"patch {n}") for n in (1, 5))
    assert first.get_color() == figure_sheet.PATCH_COLORS[0]
    assert fifth.get_color() == figure_sheet.PALE
    figure = by_looks(6).figure()  # the last is the heaviest, and the first two are the lightest
    colors = [next(t for t in texts(figure) if t.get_text() == f"patch {n}") for n in range(1, 7)]
    pale, four = [figure_sheet.PALE] * 2, list(figure_sheet.PATCH_COLORS)
    assert [text.get_color() for text in colors] == pale + four


def test_maps_share_one_scale_and_bars_stand_under_them():
    found = explanation(5, 2)
    figure = found.figure()
    figure.draw_without_rendering()
    # A cell is shown as what the logit would be if the whole view looked like it.
    peak = max(9 * float(found.step_maps[0].max()), 16 * float(found.global_map[0].max()))
    maps = [
        axes
        for axes in figure.axes
        if len(axes.images) == 2 and axes.images[1].get_clim()[1] == peak
    ]
    assert len(maps) == 11
    whole = next(axes for axes in maps if axes.images[0].get_array().shape == (40, 40))
    (cells,) = resample_cells(16 * found.global_map[:1], (40, 40), -0.5)
    torch.testing.assert_close(torch.from_numpy(np.array(whole.images[1].get_array())), cells)
    maps.remove(whole)
    bars = [
        patch.get_window_extent()
        for axes in figure.axes
        if len(axes.containers)
        for patch in axes.patches
    ]
    assert len(bars) == 10
    middle = [axes.get_window_extent() for axes in maps]
    for one, bar in zip(middle, bars, strict=True):
        assert (one.x0 + one.x1) / 2 == pytest.approx((bar.x0 + bar.x1) / 2, abs=0.5)
        assert bar.y1 <= one.y0 + 0.5
    heights = np.array([bar.height for bar in bars])
    weights = found.step_weights[0].flatten().numpy()
    np.testing.assert_allclose(heights / heights.max(), weights / weights.max(), atol=0.01)


def test_maps_against_another_class_have_a_colour_for_each():
    found = explanation(5)
    maps = found.step_maps - 0.6
    found = replace(found, step_maps=maps, against=torch.tensor([4, 1]), temperatures=None)
    figure = found.figure()
    headline = next(word for word in words(figure) if word.startswith("What"))
    assert re.fullmatch(r"What speaks for A very .* \(orange\), not for Donau.* \(blue\)", headline)
    peak = max(9 * float(maps[0].abs().max()), 16 * float(found.global_map[0].max()))
    drawn = [axes.images[1] for axes in figure.axes if len(axes.images) == 2]
    assert [image.get_clim() for image in drawn] == [(-peak, peak)] * 6
    colors = drawn[0].cmap(np.array([0.0, 0.4999, 1.0]))
    assert colors[0, 2] > 2 * colors[0, 0]  # blue
    assert colors[2, 0] > 2 * colors[2, 2]  # orange
    assert colors[1, 3] < 0.1 < 0.8 < colors[0, 3] == colors[2, 3]
    assert {f"{-peak:.2g}", "0", f"{peak:.2g}"} <= {
        text.replace("\N{MINUS SIGN}", "-") for text in words(figure)
    }


def test_a_large_scale_is_written_in_full():
    found = explanation(5)
    found = replace(found, step_maps=found.step_maps * 100)
    peak = 9 * float(found.step_maps[0].max())
    assert f"{peak:.0f}" in words(found.figure())
    assert peak > 100


def test_patches_beside_two_compared_classes_have_colours_of_their_own():
    found = replace(weighted(6), against=torch.tensor([4, 1]))
    drawn = {t.get_text(): to_rgb(t.get_color()) for t in texts(found.figure())}
    classes = [to_rgb(figure_sheet.FOR), to_rgb(figure_sheet.AGAINST)]
    patches = [drawn[f"patch {number}"] for number in range(1, 5)]
    assert len(set(patches)) == 4
    for color in patches:
        assert min(np.abs(np.subtract(color, one)).sum() for one in classes) > 0.6


def test_boxes_and_pixels_are_where_and_what_they_were():
    found = explanation(2, 2)
    figure = found.figure(1)
    picture = figure.axes[0]
    shown = picture.images[0].get_array()
    expected = (found.images[1] * 0.5 + 0.5).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    corners = {(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in picture.patches}
    expected_boxes = {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in found.boxes[1].tolist()}
    assert corners == expected_boxes
    larger = Image.new("L", (80, 120))
    figure = found.figure(1, larger)
    (x, y, width, height) = next(
        (p.get_x(), p.get_y(), p.get_width(), p.get_height())
        for p in reversed(figure.axes[0].patches)
    )
    x0, y0, x1, y1 = found.boxes[1, 0].tolist()
    assert (x, y, width, height) == pytest.approx((2 * x0, 3 * y0, 2 * (x1 - x0), 3 * (y1 - y0)))


def test_many_patches_one_channel_no_names_no_boxes():
    found = explanation(2, 6, channels=1, names=None)
    said = words(found.figure())
    assert "the first 4 of 6 patches" in said
    assert "patch 4" in said
    assert "patch 5" not in said
    assert "What speaks for class 2" in said
    object.__setattr__(found, "boxes", None)
    assert not found.figure().axes[0].patches


@pytest.mark.slow
@pytest.mark.parametrize("found", [explanation(4, 2), weighted(3)])
def test_figures_are_drawn_under_autocast_as_without(found):
    plain = _pixels(found.figure())
    with torch.autocast("cpu", torch.bfloat16):
        assert (_pixels(found.figure()) == plain).all()


def _pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(rcParams)
    explanation().figure()
    assert dict(rcParams) == before
    code = (
        "import sys, torch; sys.path.insert(0, 'tests/inference')\n"
        "from test_figure import explanation\n"
        "explanation().figure(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_without_matplotlib_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError) as caught:
        explanation().figure()
    assert str(caught.value) == (
        "Expected matplotlib to draw figures with, but it is not installed: "
        "pip install 'recurrent-attention[train]'."
    )


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".jpg", ".PNG"])
def test_save(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    explanation().save(path, 1, dpi=50)
    assert path.stat().st_size > 1000
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width > 300


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_text("old")

    def fail(self, target, **_):
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        explanation().save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_bad_paths(tmp_path):
    found = explanation()
    with pytest.raises(FileNotFoundError) as caught:
        found.save(tmp_path / "nowhere" / "out.png")
    assert str(caught.value) == (
        f"Expected `path` to be in an existing folder, but there is no {tmp_path / 'nowhere'}. "
        "Create it first."
    )
    with pytest.raises(IsADirectoryError) as caught:
        found.save(tmp_path)
    assert str(caught.value) == f"Expected `path` to be a file, but {tmp_path} is a folder."
    with pytest.raises(
        ValueError, match=r"^Expected `path` to end in one of .*\.png, .*'out\.doc'\.$"
    ):
        found.save(tmp_path / "out.doc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("index", [2, -1])
def test_bad_index(index):
    with pytest.raises(ValueError) as caught:
        explanation().figure(index)
    assert str(caught.value) == f"Expected `index` to be in [0, 2), but got {index}."


def test_bad_image():
    with pytest.raises(TypeError) as caught:
        explanation().figure(image="bird.jpg")
    assert str(caught.value) == "Expected `image` to be a PIL.Image, but got str."


@pytest.fixture
def fonts(monkeypatch):
    """Say which fonts the system has, and forget them afterwards."""

    def have(*files):
        monkeypatch.setattr(figure_sheet.font_manager, "findSystemFonts", lambda: list(files))
        figure_sheet._system_fonts.cache_clear()

    yield have
    monkeypatch.undo()
    figure_sheet._system_fonts.cache_clear()


NAMES_OF_THE_WORLD = ["\u9de6\u9df0", "\uad74\ub69d\uc0c8", "\u30df\u30bd\u30b5\u30b6\u30a4"]


def test_letters_that_no_font_has_are_warned_of_once(fonts, recwarn):
    fonts()
    names = [*NAMES_OF_THE_WORLD, "wren", "owl"]
    figure = explanation(names=names).figure()
    figure.canvas.draw()
    (warning,) = (w for w in recwarn if "letters" in str(w.message))
    assert re.fullmatch(
        r"The figure shows \d+ letters as boxes, such as '.': no installed font has them. Install "
        r"one, such as the package fonts-noto-cjk of Debian and Ubuntu, or a Noto font of that "
        r"script.",
        str(warning.message),
    )
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_font_of_the_system_that_has_the_letters_is_taken(fonts, recwarn, monkeypatch):
    here = Path(font_manager.findfont("DejaVu Serif"))
    real = figure_sheet._letters_of
    letters = frozenset(map(ord, "".join(NAMES_OF_THE_WORLD)))
    monkeypatch.setattr(
        figure_sheet,
        "_letters_of",
        lambda file: real(file) | (letters if file == here else frozenset()),
    )
    fonts(str(here))
    assert figure_sheet.font_for("wren") == (None, frozenset())
    assert figure_sheet.font_for(NAMES_OF_THE_WORLD[0]) == (here, frozenset())
    lost = "\U000e0fff"
    assert figure_sheet.font_for(NAMES_OF_THE_WORLD[0] + lost) == (here, {lost})
    assert not recwarn


def test_control_characters_of_a_class_name_are_shown_escaped():
    assert readable("004.Red\x1b[2J_Finch\n") == r"Red\x1b[2J Finch\n"


def test_wide_letters_take_the_room_of_two():
    assert figure_sheet.wrapped("\u9de6" * 30, 1.0, lines=1, per_inch=10) == (
        "\u9de6" * 4 + "\u2026"
    )
    assert figure_sheet.wrapped("\u9de6" * 5, 1.0, per_inch=10) == "\u9de6" * 5
    lines = figure_sheet.wrapped("\u9de6" * 9, 1.0, per_inch=10).split("\n")
    assert [len(line) for line in lines] == [5, 4]


@pytest.mark.parametrize("found", [explanation(1, 1), explanation(4, 2), weighted(1)])
def test_the_note_of_a_notebook_and_the_headline_stand_side_by_side(found):
    figure = found._drawn(0, None, "image 1 of 1000: figure(1) draws the next")
    (note, headline) = (
        next(t for t in texts(figure) if t.get_text().startswith(start)).get_window_extent()
        for start in ("image 1 of", "What speaks")
    )
    assert figure.bbox.x0 < headline.x0 < headline.x1 < note.x0 < note.x1 < figure.bbox.x1
    assert note.y0 > figure.bbox.y1 - 0.36 * figure.dpi
