"""What a notebook shows of a prediction and of an explanation."""

import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers.models import make, photo
from PIL import Image

from recurrent_attention import Prediction
from recurrent_attention.inference.explanation import NOTEBOOK_DPI

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='x'>",
    "&lt;wren&gt;",
    "\x1b[2J\u202e",
    os.fsdecode(b"\xff"),
)


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell or note."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def shown(prediction):
    page = Page(prediction._repr_html_())
    return page, [text for text in page.texts if text]


def test_a_prediction_is_a_table_with_a_bar_for_each_class():
    model = make(class_names=["auk", "coot", "dodo", "emu", "owl"])
    prediction = model.predict(photo())
    page, texts = shown(prediction)
    percents = [f"{100 * share:.1f}" for share in prediction.probabilities]
    wanted = [
        words
        for name, percent in zip(prediction.class_names, percents, strict=True)
        for words in (name, f"{percent} %")
    ]
    assert texts[:-1] == wanted
    assert texts[-1] == (
        f"global stream alone: {prediction.global_class}, "
        f"local stream alone: {prediction.local_class}"
    )
    styles = [attributes.get("style", "") for _, attributes in page.tags]
    bars = [re.match(r"width:([\d.]+)%", style) for style in styles]
    assert [bar[1] for bar in bars if bar] == percents


def test_letters_have_the_colour_of_the_page():
    html = Prediction(("auk",), (1.0,), (0,), "auk", "auk", None)._repr_html_()
    assert set(re.findall(r"(?<![-\w])color:(\w+)", html)) == {"inherit"}
    assert html.count("background:none") == 4  # the row and its cells: no stripes of a dark theme


def test_names_are_text_and_nothing_else():
    shares = (0.5, 0.3, 0.1, 0.06, 0.04)
    prediction = Prediction(HOSTILE, shares, (0, 1, 2, 3, 4), HOSTILE[0], HOSTILE[1], None)
    page, texts = shown(prediction)
    assert {tag for tag, _ in page.tags} == {"table", "tr", "td", "div"}
    assert all(set(attributes) <= {"style"} for _, attributes in page.tags)
    assert texts[:10:2] == [*HOSTILE[:3], r"\x1b[2J\u202e", r"\udcff"]
    assert texts[-1] == f"global stream alone: {HOSTILE[0]}, local stream alone: {HOSTILE[1]}"
    prediction._repr_html_().encode("utf-8")


def test_what_is_no_number_has_no_bar():
    html = Prediction(("auk",), (float("nan"),), (0,), "auk", "auk", None)._repr_html_()
    assert "nan %" in html
    assert "width:0%" in html


@pytest.mark.parametrize("count", [1, 3])
def test_an_explanation_is_the_figure_of_its_first_picture(count):
    found = make().explain([photo(seed) for seed in range(count)])
    figure = found.figure()
    with Image.open(io.BytesIO(found._repr_png_())) as image:
        assert image.format == "PNG"
        wanted = np.floor(figure.get_size_inches() * NOTEBOOK_DPI + 1e-6).astype(int)
        assert image.size == tuple(wanted)
        pixels = torch.tensor(np.array(image.convert("RGB")))
    plain = io.BytesIO()
    figure.savefig(plain, dpi=NOTEBOOK_DPI, format="png")
    same = pixels == torch.tensor(np.array(Image.open(plain).convert("RGB")))
    headline = NOTEBOOK_DPI * 36 // 100
    assert same[headline:].all()
    assert same[:headline].all() == (count == 1)  # where it says how many pictures there are


def test_it_says_how_many_pictures_there_are(monkeypatch):
    from matplotlib.figure import Figure

    said = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *a, **k: (
            said.append([t.get_text() for t in self.texts]) or save(self, *a, **k)
        ),
    )
    for count in (1, 3):
        make().explain([photo(seed) for seed in range(count)])._repr_png_()
    assert not any("image 1 of" in text for text in said[0])
    assert "image 1 of 3: figure(1) draws the next" in said[1]


@pytest.mark.slow
def test_without_matplotlib_the_plain_words_are_shown():
    code = """if True:
        import sys
        sys.modules["matplotlib"] = None
        import torch
        from recurrent_attention import TwoStreamClassifier
        model = TwoStreamClassifier("test_resnet", 2, image_size=64, patch_size=32)
        found = model.explain(torch.zeros(3, 64, 64, dtype=torch.uint8))
        print(found._repr_png_(), repr(found)[:23])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None Explanation(step_maps=(\n"
