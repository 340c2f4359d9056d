"""The subcommand demo: a browser at its page, how it ends, what it says when it cannot begin."""

import base64
import os
import re
import shutil
import signal
import socket
import sys

import pytest
from click.testing import CliRunner
from helpers.command import saved_model, start
from helpers.models import photo

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.cli import main
from recurrent_attention.cli.demo import free_port

NAMES = ["001.Black_auk", "002.Emu", "003.Owl"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
no_signal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for others")
WAIT = 60_000  # ms; a page is there in five seconds on an idle core


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory, NAMES)


@pytest.fixture
def served(model, tmp_path):
    """The command on a port of its own: its process, and the address that it prints."""
    port = free_port("127.0.0.1", None)
    kept = tmp_path / "kept"
    kept.mkdir()
    environment = os.environ | {"TMPDIR": str(kept)}
    process = start("demo", model, "--port", port, env=environment)
    line = process.stdout.readline()
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
    if found is None:
        process.kill()
        pytest.fail(f"it printed {line!r}, and {process.communicate()[1]}")
    yield process, found[1]
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
def page(served):
    """A browser at the page, and a list of what it asked other hosts for."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed here")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(WAIT)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served[1])
        page.wait_for_selector("#drop input[type=file]", state="attached")
        yield page
        browser.close()


def drop(page, path):
    """Let go of a file over the page, as a mouse does."""
    data = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type: "image/png"}));
            return transfer;
        }""",
        [data, path.name],
    )
    page.dispatch_event("#drop button", "drop", {"dataTransfer": transfer})


def wait_for_another(page, name, before):
    """Wait until a picture is not the one from before."""
    page.wait_for_function(
        "([name, before]) => document.querySelector(`#${name} img`).src !== before",
        arg=[name, before],
    )


def rows_of(page, table):
    return [
        row.locator("th, td").all_inner_texts() for row in page.locator(f"{table} tbody tr").all()
    ]


@pytest.mark.slow
@no_signal
def test_a_dropped_picture_is_named_and_explained(page, served, model, tmp_path):
    photo(5).save(tmp_path / "bird.png")
    drop(page, tmp_path / "bird.png")
    page.wait_for_selector("#rows table")
    wanted = TwoStreamClassifier.from_pretrained(model).predict(tmp_path / "bird.png")
    plain = {"001.Black_auk": "Black auk", "002.Emu": "Emu", "003.Owl": "Owl"}
    best = plain[wanted.class_names[0]]
    share = f"{100 * wanted.probabilities[0]:.1f} %"
    assert page.inner_text("#answer h2") == f"{best}, {share}"
    rows = rows_of(page, "#classes")
    assert [row[0] for row in rows] == [plain[name] for name in wanted.class_names]
    assert rows[0][1] == share
    assert page.input_value("#target input") == best
    sources = {
        name: page.get_attribute(f"#{name} img", "src") for name in ("picture", "shown", "strip")
    }

    # Another class: what speaks for it is drawn anew, the picture stays.
    other = plain[wanted.class_names[1]]
    page.click("#target input")
    page.get_by_role("option", name=other).click()
    wait_for_another(page, "strip", sources["strip"])
    assert page.input_value("#target input") == other
    assert f"for {other}" in page.inner_text("#rows thead")
    wait_for_another(page, "shown", sources["shown"])
    assert page.get_attribute("#picture img", "src") == sources["picture"]
    assert page.inner_text("#answer h2") == f"{best}, {share}"

    # Another look at another patch.
    before = page.get_attribute("#shown img", "src")
    page.get_by_role("radio", name="2").click()
    wait_for_another(page, "shown", before)
    page.locator("#look input[type=number]").fill("3")
    page.locator("#look input[type=number]").press("Tab")
    page.wait_for_selector("#rows tr.chosen:nth-child(3)")
    found = TwoStreamClassifier.from_pretrained(model).explain(
        tmp_path / "bird.png", target=wanted.class_names[1]
    )
    weights = [f"{100 * weight:.1f} %" for weight in found.step_weights[0, 1].tolist()]
    assert [row[1].strip() for row in rows_of(page, "#rows")] == weights

    # A file that is no picture, and after it one that is.
    (tmp_path / "bad.png").write_text("no picture")
    drop(page, tmp_path / "bad.png")
    said = page.wait_for_selector("#message .sentence").inner_text()
    assert said.startswith("Expected a readable picture in bad.png, but got: data in none of the")
    page.wait_for_selector("#results", state="hidden")
    drop(page, tmp_path / "bird.png")
    page.wait_for_selector("#rows table")
    page.wait_for_selector("#message .sentence", state="hidden")
    assert page.inner_text("#answer h2") == f"{best}, {share}"

    # All of it fits a narrow window, and comes from this machine.
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    asked = [url for url in page.asked if not url.startswith((served[1], "data:", "blob:"))]
    assert asked == []

    # Of what was dropped and drawn nothing stays behind.
    kept = tmp_path / "kept"
    assert list(kept.rglob("demo-*/**/bird.png"))
    served[0].send_signal(signal.SIGINT)
    served[0].communicate(timeout=30)
    assert [path for path in kept.rglob("*") if path.suffix or "demo-" in str(path)] == []


@pytest.mark.slow
@no_signal
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_traceback(served, tmp_path, number, status):
    process, address = served
    with socket.create_connection(("127.0.0.1", int(address.split(":")[2].strip("/")))):
        pass
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    assert not [path for path in (tmp_path / "kept").rglob("*") if "demo-" in path.name]


@pytest.fixture
def taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def run(*words):
    return CliRunner().invoke(main, ["demo", *map(str, words)])


def test_a_port_in_use_is_said_before_the_model_is_loaded(taken):
    found = run("nowhere", "--port", taken)
    assert found.exit_code == 2
    assert found.stderr == (
        f"Error: Expected port {taken} at 127.0.0.1 to be free, but it is in use. Give another one "
        "as --port.\n"
    )


def test_without_a_port_the_next_free_one_is_taken(taken, monkeypatch):
    monkeypatch.setattr("recurrent_attention.cli.demo.FIRST_PORT", taken)
    assert taken < free_port("127.0.0.1", None) < taken + 100


def test_an_address_of_another_machine_is_said():
    found = run("nowhere", "--host", "192.0.2.1")  # reserved for documentation
    assert found.exit_code == 2
    assert found.stderr.startswith("Error: Expected to serve at 192.0.2.1, port 7860, but got: ")
    assert found.stderr.count("\n") == 1


def test_a_missing_model_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    found = run("nowhere")
    assert found.exit_code == 2
    assert found.stderr.startswith(
        "Error: Expected a folder or a repository called 'nowhere', but "
    )
    assert found.stderr.count("\n") == 1


def test_it_ends_like_other_commands_that_ctrl_c_ends(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TwoStreamClassifier, "from_pretrained", interrupted)
    found = run("nowhere")
    assert found.exit_code == 130
    assert found.output.strip() == ""
