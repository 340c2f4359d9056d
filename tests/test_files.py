"""Paths and names from outside, and files that are there whole or not at all."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from recurrent_attention._errors import first_line, printable
from recurrent_attention._files import check_new_file, check_regular_file, kind_of, whole_file

posix = pytest.mark.skipif(os.name != "posix", reason="pipes lie in folders on POSIX alone")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wren.jpg", "wren.jpg"),
        ("鷦鷯 Ζωή.jpg", "鷦鷯 Ζωή.jpg"),
        ("नी\u200dल", "नी\u200dल"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202ebird", r"gpj.\u202ebird"),
        (os.fsdecode(b"\xff.png"), r"\udcff.png"),
    ],
)
def test_names_from_outside_are_one_line_without_controls(name, shown):
    assert printable(name) == shown
    printable(name).encode("utf-8")


def test_the_first_line_of_an_error():
    assert first_line(ValueError("broken.\nTraceback ...")) == "broken"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 400)) == "x" * 300
    assert first_line(ValueError("\x1b[2Jgone")) == r"\x1b[2Jgone"


@posix
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    (tmp_path / "to file").symlink_to(tmp_path / "file")
    kinds = {"pipe": "a pipe", "to pipe": "a pipe", ".": "a folder", "file": "a file"}
    kinds |= {"to file": "a file", "lost": "a link to nothing", "gone": "nothing"}
    assert {name: kind_of(tmp_path / name) for name in kinds} == kinds
    assert kind_of("/dev/null") == "a device"
    with pytest.raises(ValueError) as caught:
        check_regular_file(tmp_path / "pipe", "a picture", "Remove it.")
    assert str(caught.value) == (
        f"Expected a picture at {tmp_path / 'pipe'}, but it is a pipe. Remove it."
    )
    with pytest.raises(FileNotFoundError) as missing:
        check_regular_file(tmp_path / "gone", "a checkpoint")
    assert (
        str(missing.value) == f"Expected a checkpoint at {tmp_path / 'gone'}, but there is no file."
    )
    check_regular_file(tmp_path / "to file", "a picture")


@posix
def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 letters
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("s")
        assert kind_of("s") == "a socket"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be replaced")
def test_two_writers_of_one_file_share_no_part(tmp_path):
    path, torn = tmp_path / "file", []

    def write(letter):
        try:
            for _ in range(100):
                with whole_file(path) as beside, beside.open("wb") as file:
                    for _ in range(10):
                        file.write(letter * 3000)
                        file.flush()
        except OSError as error:  # the other one took its part away
            torn.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        content = path.read_bytes() if path.exists() else b"a" * 30_000
        if content not in (b"a" * 30_000, b"b" * 30_000):
            torn.append(content)
    for thread in threads:
        thread.join()
    assert not torn
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_part_of_a_long_name_fits(tmp_path):
    path = tmp_path / ("n" * 250)
    with whole_file(path) as beside:
        beside.write_text("x")
    assert path.read_text() == "x"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "table").write_text("before")
    for name, target in (("link", "far/table"), ("lost", "far/new"), ("twice", "link")):
        (tmp_path / name).symlink_to(target)
        check_new_file(tmp_path / name)
        with whole_file(tmp_path / name) as beside:
            beside.write_text(name)
        assert (tmp_path / name).is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "far").iterdir()} == {
        "table": "twice",
        "new": "lost",
    }


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_names_of_open_files_are_refused_also_where_they_lead_to_a_file(path, tmp_path):
    with (tmp_path / "out").open("w") as out:
        script = (
            "import os, sys; from pathlib import Path; from recurrent_attention import _files\n"
            "try: _files.check_new_file(Path(sys.argv[1]))\n"
            "except ValueError as error: print(error, file=sys.stderr)"
        )
        command = [sys.executable, "-c", script, path]
        found = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    assert found.stderr == f"Expected `path` to be a file, but {path} is a device.\n"


def test_a_file_that_cannot_be_written_is_named_and_stays(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are a matter of POSIX")
    path = tmp_path / "file"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught, whole_file(path) as beside:
            beside.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"Expected to write {path}, but got: File too large. What was there before is as it was. "
        "Make room or choose another place, and try again."
    )
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_keeps_its_permissions_and_one_that_is_read_only_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)
    with whole_file(path) as beside:
        beside.write_text("after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may do anything
    with pytest.raises(OSError, match="but got: it is read-only. What was there"), whole_file(path):
        raise AssertionError
    assert path.read_text() == "after"


def test_what_fails_beside_the_writing_keeps_its_own_words(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"\[Errno 2\] .*'elsewhere'"),
        whole_file(tmp_path / "file"),
    ):
        open("elsewhere")  # noqa: PTH123, SIM115
