"""Unpacking: hostile and damaged archives, kills in the middle, two processes at once."""

import gzip
import hashlib
import io
import multiprocessing
import os
import tarfile
import time
import zlib

import pytest

from recurrent_attention.data._fetching.archive import unpack
from recurrent_attention.data._fetching.download import RemoteFile
from recurrent_attention.data._fetching.fetch import fetch


@pytest.fixture(autouse=True)
def syncs(monkeypatch):
    """Count what is brought to the disk, without waiting for the disk."""
    calls = []
    monkeypatch.setattr(
        "recurrent_attention.data._fetching.archive._to_disk", lambda: calls.append(1)
    )
    return calls


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def folder(name):
    return member(name, type=tarfile.DIRTYPE)


def link(name, to, kind=tarfile.SYMTYPE):
    return member(name, type=kind, linkname=to)


def tar_of(path, members, *, mode="w:gz", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


GOOD = [
    folder("birds"),
    member("birds/images.txt", b"1 a/b.jpg\n", mode=0o4777, uid=1, uname="you", mtime=3),
    member("birds/images/" + "long " * 40 + "/a/b.jpg", b"picture"),
    member("./birds/./deep//er.txt", b"x" * 600_000),
    member("attributes.txt", b"1 red\n"),
]


def listed(folder):
    return sorted(entry.name for entry in folder.iterdir())


def files_under(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


EXPECTED = {
    "images.txt": b"1 a/b.jpg\n",
    "images/" + "long " * 40 + "/a/b.jpg": b"picture",
    "deep/er.txt": b"x" * 600_000,
    "attributes.txt": b"1 red\n",
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_good_archive(tmp_path, syncs, mode, form):
    path = tar_of(tmp_path / "birds.tgz", GOOD, mode=mode, form=form)
    target = tmp_path / "birds"
    unpack([path], target, strip="birds", progress=False)
    assert files_under(target) == EXPECTED
    assert len(syncs) == 2  # the files before the folder gets its name, and then that name
    found = (target / "images.txt").stat()
    assert found.st_mode & 0o7111 == 0  # neither setuid nor executable
    assert found.st_uid == tmp_path.stat().st_uid
    assert listed(tmp_path) == ["birds", "birds.tgz"]
    with pytest.raises(FileExistsError) as caught:
        unpack([path], target, progress=False)
    assert str(caught.value) == f"Expected no folder at {target}, but there is one."


ONLY_FILES = "Expected {} to hold files and folders only, but 'birds/x' is {}."
INSIDE = "Expected {} to hold names inside the folder it is unpacked to, but got {!r}."
ONCE = "Expected {} to hold each name once, but {!r} is there twice."
HOSTILE = {
    "symbolic link out": ([link("birds/x", "/etc")], ONLY_FILES, "a symbolic link"),
    "symbolic link up": ([link("birds/x", "../../..")], ONLY_FILES, "a symbolic link"),
    "symbolic link, then a file through it": (
        [link("birds/x", "/tmp"), member("birds/x/evil", b"!")],
        ONLY_FILES,
        "a symbolic link",
    ),
    "symbolic link inside": ([link("birds/x", "images.txt")], ONLY_FILES, "a symbolic link"),
    "hard link out": (
        [link("birds/x", "/etc/passwd", tarfile.LNKTYPE)],
        ONLY_FILES,
        "a hard link",
    ),
    "hard link up": (
        [link("birds/x", "../../victim", tarfile.LNKTYPE)],
        ONLY_FILES,
        "a hard link",
    ),
    "character device": ([member("birds/x", type=tarfile.CHRTYPE)], ONLY_FILES, "a device file"),
    "block device": ([member("birds/x", type=tarfile.BLKTYPE)], ONLY_FILES, "a device file"),
    "pipe": ([member("birds/x", type=tarfile.FIFOTYPE)], ONLY_FILES, "a pipe"),
    "contiguous file": (
        [member("birds/x", type=tarfile.CONTTYPE)],
        ONLY_FILES,
        "of a kind that is not taken",
    ),
    "unknown kind": ([member("birds/x", type=b"Z")], ONLY_FILES, "of a kind that is not taken"),
    "absolute name": ([member("/etc/cron.d/x", b"!")], INSIDE, "/etc/cron.d/x"),
    "absolute folder": ([folder("/tmp/x")], INSIDE, "/tmp/x"),
    "name that leads up": ([member("birds/../../x", b"!")], INSIDE, "birds/../../x"),
    "name that leads up and back": ([member("a/../x", b"!")], INSIDE, "a/../x"),
    "only dots": ([member("..", b"!")], INSIDE, ".."),
    "backslashes": ([member("birds\\..\\..\\x", b"!")], INSIDE, "birds\\..\\..\\x"),
    "a drive": ([member("C:/x", b"!")], INSIDE, "C:/x"),
    "a control character": ([member("birds/x\n", b"!")], INSIDE, "birds/x\n"),
    "a name too long for a disk": ([member("n" * 256, b"!")], INSIDE, "n" * 200),
    "no name": ([member("", b"!")], INSIDE, ""),
    "name twice": ([member("birds/images.txt", b"!")], ONCE, "birds/images.txt"),
    "name twice, in other letters": ([member("birds/./images.txt")], ONCE, "birds/./images.txt"),
    "file over a folder": ([member("birds/images", b"!")], ONCE, "birds/images"),
    "folder over a file": ([folder("birds/images.txt")], ONCE, "birds/images.txt"),
    "file in a file": ([member("birds/images.txt/x", b"")], ONCE, "birds/images.txt/x"),
    "stripped name twice": ([member("images.txt", b"!")], ONCE, "images.txt"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive(tmp_path, kind):
    members, sentence, told = HOSTILE[kind]
    (tmp_path / "in").mkdir()
    path = tar_of(tmp_path / "in" / "birds.tgz", [*GOOD, *members])
    (tmp_path / "victim").write_text("safe")
    with pytest.raises(ValueError) as caught:
        unpack([path], tmp_path / "in" / "birds", strip="birds", progress=False)
    assert str(caught.value) == sentence.format(path, told)
    assert listed(tmp_path) == ["in", "victim"]
    assert (tmp_path / "victim").read_text() == "safe"
    assert listed(tmp_path / "in") == ["birds.tgz"]


def header_of(size, kind, name="././@LongLink"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_would_fill_the_memory(tmp_path, kind):
    path = tmp_path / "birds.tgz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(header_of(6 * 2**30, kind))
        out.write(bytes(2**21))
    with pytest.raises(ValueError) as caught:
        unpack([path], tmp_path / "birds", progress=False)
    assert str(caught.value) == (
        f"Expected {path} to be a whole tar archive, but got: a header of 6442450944 bytes. Remove "
        "the file and call again."
    )


def test_a_sparse_file(tmp_path):
    path = tmp_path / "birds.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\x00"  # one piece of 512 bytes at byte 0
    header[483:495] = b"77777777777\x00"  # of a file of 8 GB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(512) + bytes(1024))
    with pytest.raises(ValueError, match="is of a kind that is not taken.$"):
        unpack([path], tmp_path / "birds", progress=False)
    assert listed(tmp_path) == ["birds.tar"]


def test_bombs(tmp_path):
    bomb = tar_of(tmp_path / "bomb.tgz", [member("zeros", bytes(3_000_000))])
    assert bomb.stat().st_size < 10_000
    claims = tmp_path / "claims.tar"
    claims.write_bytes(header_of(10**12, tarfile.REGTYPE, "x") + bytes(4096))
    many = tar_of(tmp_path / "many.tgz", [member(str(i)) for i in range(11)])
    for path, most in ((bomb, "2999999 bytes"), (claims, "2999999 bytes"), (many, "10 files and")):
        with pytest.raises(ValueError) as caught:
            unpack([path], tmp_path / "x", progress=False, max_bytes=2_999_999, max_members=10)
        assert f"Expected {path} to hold at most {most}" in str(caught.value)
        assert str(caught.value).endswith("but it holds more. Is it another archive?")
        assert not any(name.startswith((".x", "x")) for name in listed(tmp_path))
    tail = tmp_path / "tail.tgz"
    tail.write_bytes(
        gzip.compress(tar_of(tmp_path / "x.tar", GOOD, mode="w").read_bytes() + bytes(9**7))
    )
    with pytest.raises(ValueError, match="at most 2999999 bytes"):
        unpack([tail], tmp_path / "x", progress=False, max_bytes=2_999_999)
    # The limits are of all archives together.
    with pytest.raises(ValueError, match="at most 10 files"):
        unpack(
            [tar_of(tmp_path / f"{i}.tar", [member(f"{i}-{j}") for j in range(6)]) for i in "ab"],
            tmp_path / "x",
            progress=False,
            max_members=10,
        )


def damaged(path):
    """Archives that are none, or not whole, by kind."""
    plain = tar_of(path / "plain", GOOD, mode="w").read_bytes()
    packed = gzip.compress(plain)
    header = bytearray(plain)
    header[512 + 148] ^= 1  # the check sum of the second header, where tarfile itself just ends
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 255
    return {
        "empty": b"",
        "text": b"no archive " * 100,
        "a web page": b"<html>" + b" " * 2000,
        "zeros": bytes(100),
        "cut off in a file": plain[: len(plain) // 2],
        "cut off between files": plain[:1536],
        "cut off when packed": packed[: len(packed) // 2],
        "without its end": plain.rstrip(b"\0"),
        "a damaged header": bytes(header),
        "a damaged stream": bytes(flipped),
        "gzip of text": gzip.compress(b"no archive"),
        "gzip's header alone": packed[:5],
        "zlib": zlib.compress(plain),
    }


def test_damaged_archives(tmp_path):
    for kind, content in damaged(tmp_path).items():
        path = tmp_path / "birds.tgz"
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            unpack([path], tmp_path / "birds", strip="birds", progress=False)
        said = str(caught.value)
        assert said.startswith(f"Expected {path} to be a whole tar archive, but got: "), kind
        assert said.endswith(". Remove the file and call again."), kind
        assert "\n" not in said
        assert listed(tmp_path) == ["birds.tgz", "plain"], kind


def remote(archive):
    content = archive.read_bytes()
    url = f"http://127.0.0.1:9/{archive.name}"  # the archive is there: nothing is asked for
    return RemoteFile(url, len(content), hashlib.md5(content).hexdigest())


def start(archive, target):
    process = multiprocessing.get_context("fork").Process(
        target=fetch, args=(target, [remote(archive)]), kwargs={"strip": "birds", "progress": False}
    )
    process.start()
    return process


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")


@needs_fork
def test_a_kill_while_unpacking(tmp_path):
    many = [member(f"birds/{number:05d}.txt", b"%d" % number) for number in range(1500)]
    archive = tar_of(tmp_path / "birds.tar", many, mode="w")
    target, staging = tmp_path / "birds", tmp_path / ".birds.unpacking"
    process = start(archive, target)
    while not (staging.is_dir() and any(staging.iterdir())):
        time.sleep(0.001)
        assert process.is_alive()
    process.kill()
    process.join()
    left = len(listed(staging))
    assert 0 < left < len(many)
    assert not target.exists()
    (staging / "of the killed one").touch()
    fetch(target, [remote(archive)], strip="birds", progress=False)
    assert len(listed(target)) == len(many)
    assert (target / "01234.txt").read_bytes() == b"1234"
    assert not staging.exists()


@needs_fork
def test_two_processes_at_once(tmp_path):
    many = [member(f"birds/{number:05d}.txt", b"%d" % number) for number in range(2000)]
    archive = tar_of(tmp_path / "birds.tar", many, mode="w")
    target = tmp_path / "birds"
    processes = [start(archive, target) for _ in range(2)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(listed(target)) == len(many)


def test_a_failure_while_unpacking(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "birds.tgz", GOOD)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recurrent_attention.data._fetching.archive._check_end", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path / "birds", [remote(archive)], progress=False)
    assert listed(tmp_path) == [".birds.lock", "birds.tgz"]
    monkeypatch.undo()
    fetch(tmp_path / "birds", [remote(archive)], strip="birds", progress=False)
    assert files_under(tmp_path / "birds") == EXPECTED
