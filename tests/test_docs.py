"""The pages: their Python runs, and their error texts are the package's."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
from helpers.pages import python_of, run

import recurrent_attention
from recurrent_attention.export.onnx import OLDEST_TORCH

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    page
    for page in (ROOT / "docs").rglob("*.md")
    if python_of(page) and page.stem != "loops"  # that one is run by test_loops.py
)


@pytest.fixture
def pictures_here(tmp_path, monkeypatch, colored_pictures):
    """A working directory with `pictures`: wrens, of which there is a 1.jpg, and finches."""
    monkeypatch.chdir(tmp_path)
    pictures, _ = colored_pictures
    for index, name in enumerate(pictures.names):
        folder = tmp_path / "pictures" / ("wren", "finch")[pictures.labels[index]]
        target = folder / ("1.jpg" if index == 0 else name)
        target.parent.mkdir(exist_ok=True)
        pictures.path(index).rename(target)


@pytest.mark.parametrize("number", range(len(python_of(README))))
def test_python_of_the_readme_runs(number, pictures_here):
    run(python_of(README)[number], f"README.md block {number}", {})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, pictures_here):
    """All blocks, from the top, as a reader who pastes one after the other."""
    if page.stem == "export" and tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        pytest.skip("this torch is too old for export_onnx")
    names = {"__name__": "page"}
    for number, block in enumerate(python_of(page)):
        run(block, f"{page.name} block {number}", names)


def sentence_of(node):
    """The text that an expression makes, with … for what is only known when it runs."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(sentence_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return sentence_of(node.left) + sentence_of(node.right)
    return "…"


def sentences_in_the_source():
    files = [*(ROOT / "examples").rglob("*.py")]
    files += Path(recurrent_attention.__file__).parent.rglob("*.py")
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    return {
        sentence_of(node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, kinds)
    }


def test_error_texts_of_the_troubleshooting_page_are_in_the_source():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    listed = [
        quoted.strip("`") for quoted in re.findall(r"^(`+Expected .*`)\n", page, re.MULTILINE)
    ]
    assert len(listed) > 50
    source = sentences_in_the_source()
    gone = [text for text in listed if not any(real.startswith(text) for real in source)]
    assert gone == []


def test_the_table_of_backbones_is_whole():
    heads, *rows = (ROOT / "docs" / "backbones.csv").read_text("utf-8").splitlines()
    page = (ROOT / "docs" / "backbones.md").read_text("utf-8")
    assert f"**{len(rows):,} of " in page
    assert {line.count(",") for line in rows} == {heads.count(",")}
    assert len({line.partition(",")[0] for line in rows}) == len(rows)
    for line in rows:
        _, _, *numbers = line.split(",")
        assert all(re.fullmatch(r"\d[\d.x/]*", number) for number in numbers), line


def test_every_public_name_has_its_place_in_the_api():
    page = (ROOT / "docs" / "api" / "index.md").read_text("utf-8")
    absent = [
        n for n in recurrent_attention.__all__ if f"::: recurrent_attention.{n}\n" not in page
    ]
    assert absent == []


def test_that_the_texts_are_compared():
    assert not any(real.startswith("Expected a miracle") for real in sentences_in_the_source())


def test_links_lead_somewhere():
    """Links between pages name files; the changelog, a page of the site too, has no such links."""
    for page in [*(ROOT / "docs").rglob("*.md"), README, ROOT / "CHANGELOG.md"]:
        targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        local = [target for target in targets if not re.match(r"https?://|mailto:|#", target)]
        if page.name == "CHANGELOG.md":
            assert not local, f"the site cannot follow {local} from {page.name}"
        missing = [name for name in local if not (page.parent / name.split("#")[0]).exists()]
        assert not missing, f"{page.relative_to(ROOT)} links to {missing}"


def test_what_mkdocs_changes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    change = importlib.import_module("hooks").on_page_content
    figure, linked = '<img alt="a" src="x.png" />', '<a href="y"><img src="x.png"></a>'
    assert change(f"<p>{figure}</p>") == (
        f'<p><a class="figure" href="x.png" title="Open the figure">{figure}</a></p>'
    )
    assert change(linked) == linked
    assert change("1 ± 2, p &lt; .1, a = b") == "1\u00a0±\u00a02, p\u00a0&lt;\u00a0.1, a = b"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_lines_of_prose_have_at_most_100_characters(page):
    """Tables, pictures, HTML and the quoted errors have lines of their own."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not re.match(r" *([|<!]|`.*`$)", line)]
    assert [line for line in lines if len(line) > 100] == []


def test_the_readme_is_short():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 160
    long = [line for line in lines if len(line) > 100 and not line.startswith("python3 -m venv")]
    assert long == []


@pytest.fixture
def claims(monkeypatch):
    folder = ROOT / "benchmarks"
    if not folder.is_dir():
        pytest.skip("no benchmarks here")
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module("claims")


def test_every_claim_stands_on_its_page(claims):
    assert [claim for claim in claims.CLAIMS if not claims.stands(claim)] == []
    assert not claims.stands(claims.CLAIMS[0]._replace(quote="1,372 of timm 1.0.31 are tested"))


def test_every_measured_number_of_the_readme_is_a_claim(claims):
    measured = re.findall(r"\d+\.\d(?: ± \d+\.\d| %)", README.read_text("utf-8"))
    quotes = " ".join(claim.quote for claim in claims.CLAIMS if claim.page == "README.md")
    assert len(measured) > 10
    assert [number for number in measured if number not in quotes] == []


@pytest.mark.slow
def test_quick_claims_hold(claims):
    quick = [claim for claim in claims.CLAIMS if isinstance(claim, claims.Quick)]
    assert [fault for claim in quick if (fault := claims.check(claim))] == []
    assert claims.check(quick[0]._replace(stated=1370)) != ""
