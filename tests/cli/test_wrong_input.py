"""What is not there, in the way, no picture or interrupted: a sentence, a status, nothing torn."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.command import run, start
from helpers.models import make, photo
from PIL import Image

from recurrent_attention import TwoStreamClassifier
from recurrent_attention.cli.failures import sentence_of
from recurrent_attention.data import PictureFolder
from recurrent_attention.data.listing import pictures_under

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is where nobody may write")


def failure(*words, said=0):
    """Run a subcommand that cannot do its work, after so many other lines; give its sentence."""
    found = run(*words)
    assert found.exit_code == 2, found.output
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()[said:]
    assert line.startswith("Error: Expected ")
    assert line.isprintable()
    return line.removeprefix("Error: ")


@pytest.fixture
def places(model, birds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    return {"MODEL": model, "BIRDS": birds, "PICTURE": birds / "auk" / "0.png"}


def fill(places, words):
    return [places.get(word, word) for word in words]


NO_MODEL = [
    ("predict", "WHERE", "PICTURE"),
    ("explain", "WHERE", "PICTURE"),
    ("boxes", "WHERE", "BIRDS"),
    ("export", "WHERE", "x.onnx"),
]


@pytest.mark.parametrize("where", ["nowhere", "empty", "file", "file/below"])
@pytest.mark.parametrize("words", NO_MODEL, ids=lambda words: words[0])
def test_no_model(places, tmp_path, words, where):
    before = sorted(tmp_path.rglob("*"))
    failure(*fill(places | {"WHERE": where}, words))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["boxes", "check"])
@pytest.mark.parametrize("where", ["nowhere", "empty", "file", "file/below"])
def test_no_folder_of_pictures(places, tmp_path, command, where):
    before = sorted(tmp_path.rglob("*"))
    sentence = failure(
        *fill(places, ([command, "MODEL", where] if command == "boxes" else [command, where]))
    )
    assert where in sentence
    assert sorted(tmp_path.rglob("*")) == before


WRITERS = {
    "predict": ("predict", "MODEL", "PICTURE", "--quiet", "--csv", "OUT"),
    "boxes": ("boxes", "MODEL", "BIRDS", "--quiet", "--out", "OUT"),
    "export": ("export", "MODEL", "OUT"),
}
NO_FILE = {
    "empty": "Expected `path` to be a file, but empty is a folder.",
    "pipe": "Expected `path` to be a file, but pipe is a pipe.",
    "/dev/null": "Expected `path` to be a file, but /dev/null is a device.",
    "gone/out": "Expected `path` to be in an existing folder, but there is no gone. Create it "
    "first.",
    "file/out": "Expected `path` to be in an existing folder, but file is a file.",
    "/proc/out": "Expected to write /proc/out, but got: No such file or directory. What was there "
    "before is as it was. Make room or choose another place, and try again.",
}


@linux
@pytest.mark.parametrize("out", NO_FILE)
@pytest.mark.parametrize("words", WRITERS.values(), ids=list(WRITERS))
def test_no_file_can_be_put_there(places, tmp_path, monkeypatch, words, out):
    """It is found out before anything is read."""

    def load(*_, **__):
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(TwoStreamClassifier, "from_pretrained", load)
    before = sorted(tmp_path.rglob("*"))
    assert failure(*fill(places | {"OUT": out}, words)) == NO_FILE[out]
    assert sorted(tmp_path.rglob("*")) == before


NO_FOLDER = {
    "file": "Expected a folder at file, but it is a file. Choose another place.",
    "file/out": "Expected to make the folder file/out, but got: Not a directory. Choose another "
    "place.",
    "/proc/out": "Expected to make the folder /proc/out, but got: No such file or directory. "
    "Choose another place.",
}


@linux
@pytest.mark.parametrize("out", NO_FOLDER)
def test_no_figures_can_be_put_there(places, tmp_path, out):
    before = sorted(tmp_path.rglob("*"))
    assert failure("explain", places["MODEL"], places["PICTURE"], "--out", out) == NO_FOLDER[out]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_figure_in_the_way_is_named(places):
    (places["BIRDS"] / "out" / "1-0.png").mkdir(parents=True)
    out = places["BIRDS"] / "out"
    sentence = failure("explain", places["MODEL"], places["PICTURE"], "--out", out)
    assert sentence == f"Expected `path` to be a file, but {out / '1-0.png'} is a folder."
    assert [path.name for path in out.iterdir()] == ["1-0.png"]


def test_a_target_that_is_no_class_is_refused_before_any_figure(places, tmp_path):
    for target, start_of in (("dodo", "`target` to be one of"), ("7", "`target` to be a class in")):
        words = ("explain", places["MODEL"], places["BIRDS"], "--target", target)
        assert failure(*words).startswith(f"Expected {start_of}")
    assert not (tmp_path / "explained").exists()


def bad_ones(birds):
    """Three files among six pictures that are none, each in its way."""
    (birds / "auk" / "0.png").write_text("no picture")
    cut = birds / "emu" / "0.png"
    cut.write_bytes(cut.read_bytes()[:500])
    (birds / "owl" / "0.png").write_bytes(b"")
    return [birds / name / "0.png" for name in ("auk", "emu", "owl")]


def test_explain_names_bad_pictures_and_draws_the_others(places, tmp_path):
    bad = bad_ones(places["BIRDS"])
    gone = tmp_path / "gone.png"
    found = run("explain", places["MODEL"], places["BIRDS"], gone, "--out", "out")
    assert found.exit_code == 1
    said = found.stderr.splitlines()
    assert len(said) == 4
    for path, line in zip([*bad, gone], said, strict=True):
        assert line.startswith("Expected a ")
        assert str(path) in line
    figures = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in figures] == ["2-1.png", "4-1.png", "6-1.png"]
    wanted = [places["BIRDS"] / name / "1.png" for name in ("auk", "emu", "owl")]
    lines = [f"{one}: out/{figure.name}" for one, figure in zip(wanted, figures, strict=True)]
    assert found.stdout.splitlines() == lines


def test_explain_draws_what_the_model_explains(places, tmp_path):
    run("explain", places["MODEL"], places["PICTURE"], "--out", "out", "--target", "1")
    loaded = TwoStreamClassifier.from_pretrained(places["MODEL"])
    loaded.explain(places["PICTURE"], target="emu").save(tmp_path / "wanted.png")
    with Image.open("out/1-0.png") as ours, Image.open("wanted.png") as theirs:
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_names_bad_pictures_and_keeps_the_others(places, tmp_path, workers):
    whole = run("boxes", places["MODEL"], places["BIRDS"], "--out", "whole.json", "--quiet")
    assert whole.exit_code == 0
    bad = bad_ones(places["BIRDS"])
    words = ("--out", "some.json", "--quiet", "--num-workers", workers)
    found = run("boxes", places["MODEL"], places["BIRDS"], *words)
    assert found.exit_code == 1
    said = found.stderr.splitlines()
    for path, line in zip(bad, said, strict=False):
        assert line.startswith(f"Expected a readable picture at {path}, but got: ")
    assert said[3:] == ["boxes of 3 of 6 pictures in some.json"]
    every = json.loads((tmp_path / "whole.json").read_text())["boxes"]
    some = json.loads((tmp_path / "some.json").read_text())["boxes"]
    assert some == {name: every[name] for name in ("auk/1.png", "emu/1.png", "owl/1.png")}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_linked_folders_are_read_as_classes_are(places, tmp_path):
    """Also by `predict` and `boxes`, at any depth; a link to a folder that it lies in is not."""
    real, folder = tmp_path / "real", tmp_path / "folder"
    (real / "wren" / "deep").mkdir(parents=True)
    photo(1).save(real / "wren" / "deep" / "1.png")
    (folder / "finch").mkdir(parents=True)
    photo(2).save(folder / "finch" / "2.png")
    (folder / "wren").symlink_to(real / "wren")
    (folder / "finch" / "more").symlink_to(real)
    (real / "wren" / "circle").symlink_to(folder)
    (folder / "itself").symlink_to(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in pictures_under(folder))
    assert names == ["finch/2.png", "finch/more/wren/deep/1.png", "wren/deep/1.png"]
    with pytest.warns(UserWarning, match="3 files that are no pictures"):
        assert PictureFolder(folder).names == tuple(names)
    found = run("boxes", places["MODEL"], folder, "--out", tmp_path / "boxes.json", "--quiet")
    assert found.exit_code == 0, found.stderr
    assert sorted(json.loads((tmp_path / "boxes.json").read_text())["boxes"]) == names


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
@pytest.mark.parametrize("command", ["predict", "explain", "boxes"])
def test_links_to_nothing_in_a_folder_are_named(places, tmp_path, command):
    link = places["BIRDS"] / "emu" / "gone.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    more = {"boxes": ["--out", "b.json"], "explain": ["--out", "figures"]}.get(command, ["empty"])
    found = run(command, places["MODEL"], places["BIRDS"], *more)
    assert found.exit_code == 1
    assert str(link) in found.output
    assert "a link to nothing" in found.output
    if command == "predict":
        assert "No pictures in empty." in found.stderr


def test_boxes_of_bad_pictures_alone_are_not_written(places, tmp_path):
    for path in places["BIRDS"].rglob("*.png"):
        path.write_bytes(b"")
    found = run("boxes", places["MODEL"], places["BIRDS"], "--quiet")
    assert found.exit_code == 2
    lines = found.stderr.splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("Error: Expected pictures that can be read in ")
    assert not (tmp_path / "boxes.json").exists()


@pytest.mark.slow
@linux
def test_nobody_reads_on(places):
    """As `| head` does: no traceback, and no word."""
    process = start("check", places["BIRDS"], "--quiet", stdout=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1
    assert errors == ""


ENDLESS = {
    "predict": ("predict", "MODEL", "BIRDS", "--csv", "out.csv"),
    "explain": ("explain", "MODEL", "BIRDS", "--out", "out"),
    "boxes": ("boxes", "MODEL", "BIRDS", "--out", "out.json"),
    "check": ("check", "BIRDS"),
}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to a process on POSIX alone")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ENDLESS)
def test_ctrl_c_is_a_sentence_and_leaves_nothing_torn(places, tmp_path, name, workers):
    if name == "explain" and workers:
        pytest.skip("explain has no worker processes")
    picture = places["PICTURE"].read_bytes()
    for number in range(20_000):
        (places["BIRDS"] / "auk" / f"x{number}.png").write_bytes(picture)
    words = fill(places, ENDLESS[name])
    more = () if name == "explain" else ("--num-workers", workers)
    process = start(*words, *more, cwd=tmp_path, start_new_session=True)
    seen = process.stdout if name == "explain" else process.stderr
    mark = ".png: " if name == "explain" else "picture/s"
    text = ""
    while mark not in text:
        text += (letter := seen.read(1))
        assert letter, text
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "Interrupted: whatever file is there is whole."
    left = [
        path.name
        for path in tmp_path.iterdir()
        if path.name not in ("birds", "empty", "file", "pipe")
    ]
    assert left == (["out"] if name == "explain" else [])
    for figure in (tmp_path / "out").glob("*"):
        assert figure.suffix == ".png"
        with Image.open(figure) as image:
            image.load()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to a process on POSIX alone")
@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("proposals", "Interrupted: whatever file is there is whole."),
        ("epoch 1/500:", "saved after update "),
    ],
)
def test_ctrl_c_in_train_is_a_sentence_and_can_be_gone_on_from(places, tmp_path, mark, said):
    """In the middle of the proposals, and in the middle of an epoch."""
    picture = places["PICTURE"].read_bytes()
    for number in range(600):
        for name in ("auk", "emu"):
            (places["BIRDS"] / name / f"x{number}.png").write_bytes(picture)
    words = ("train", places["BIRDS"], "--backbone", "test_resnet", "--weights", "none",
             "--image-size", 32, "--patch-size", 32, "--num-patches", 2, "--batch-size", 4,
             "--epochs", 500, "--device", "cpu", "--out", "run")  # fmt: skip
    process = start(*words, cwd=tmp_path, start_new_session=True)
    text = ""
    while mark not in text:
        text += (letter := process.stderr.read(1))
        assert letter, text
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert said in errors
    folder = tmp_path / "run"
    assert not list(folder.rglob("*.part"))
    checkpoints = list(folder.rglob("*.pt"))
    assert len(checkpoints) == (0 if mark == "proposals" else 1)
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())

    again = start(*words, "--resume", cwd=tmp_path, start_new_session=True)
    text = ""
    while "epoch 1/500: " not in text:
        text += (letter := again.stderr.read(1))
        assert letter, text
    again.kill()
    if checkpoints:  # the run reads its boxes and goes on within the first epoch
        assert "proposals" not in text


def test_what_is_broken_inside_keeps_its_traceback(places, monkeypatch):
    from click.testing import CliRunner

    from recurrent_attention.cli import main

    def explain(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(TwoStreamClassifier, "explain", explain)
    words = ["explain", str(places["MODEL"]), str(places["PICTURE"])]
    assert isinstance(CliRunner().invoke(main, words).exception, RuntimeError)


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_sentence(places, tmp_path):
    import torch

    broken = make(num_classes=3)
    with torch.no_grad():
        broken.global_head.bias.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    words = ("export", tmp_path / "broken", "x.onnx", "--graph", "patches")
    assert "to answer as the model does" in failure(*words, said=1)
    assert not [*tmp_path.glob("*.onnx"), *tmp_path.glob(".*")]


DROPPED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a job in the background
from recurrent_attention import TwoStreamClassifier
from recurrent_attention.cli import main

class Dropping:
    def __del__(self):
        raise KeyboardInterrupt

def explain(*_, **__):
    Dropping()
    for _ in range(600):
        time.sleep(0.05)
    print("the interrupt is lost")

TwoStreamClassifier.explain = explain
hook = sys.unraisablehook
try:
    main()
finally:
    assert sys.unraisablehook is hook
"""


@pytest.mark.slow
def test_ctrl_c_in_a_finaliser_comes_again(places):
    """Python drops what is raised there, and the work would go on."""
    words = [sys.executable, "-c", DROPPED, "explain", places["MODEL"], places["PICTURE"]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\nInterrupted: whatever file is there is whole.\n"


def test_an_error_of_the_system_without_a_file_says_what_to_do():
    said = sentence_of(OSError(errno.ENOSPC, "No space left on device"))
    assert said.startswith("Expected to finish, but got: No space left on device. ")
    assert "/dev/shm" in said
    assert sentence_of(OSError("Expected ...")) == "Expected ..."
