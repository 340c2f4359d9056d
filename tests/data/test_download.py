"""Downloading from a server on loopback that cuts off, lies, stalls or serves something else."""

import hashlib

import pytest
from helpers.loopback import CONTENT, OTHER, honest

import recurrent_attention.data._fetching.download
from recurrent_attention.data._fetching.download import RemoteFile, download


def remote(url, content=CONTENT):
    return RemoteFile(url, len(content), hashlib.md5(content).hexdigest())


def cut_at(byte, content=None):
    return lambda handler: honest(handler, until=byte, content=content)


def stall_at(byte):
    def reply(handler):
        honest(handler, until=byte)
        handler.wfile.flush()
        handler.server.leave.wait(10)

    return reply


def whole(content, **headers):
    """All of the content whatever was asked for."""

    def reply(handler):
        handler.start(200, **{"Content_Length": len(content)} | headers)
        handler.wfile.write(content)

    return reply


def without_length(handler):
    handler.start(200)
    handler.wfile.write(handler.server.content)


def longer_without_length(handler):
    handler.start(200)
    handler.wfile.write(handler.server.content + b"more")


def status(code, **headers):
    return lambda handler: handler.start(code, Content_Length=0, **headers)


def wrong_range(text):
    def reply(handler):
        handler.start(206, Content_Range=text, Content_Length=len(OTHER) - handler.first)
        handler.wfile.write(OTHER[handler.first :])

    return reply


def reset(handler):
    handler.connection.close()


def nonsense(handler):
    handler.wfile.write(b"no HTTP at all\r\n\r\n")


def redirect(to):
    return lambda handler: handler.start(302, Location=to, Content_Length=0)


def redirect_on(handler):
    handler.start(302, Location=handler.path.partition("?")[0] + "?moved=1", Content_Length=0)


def listed(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fetched(server, folder, content=CONTENT):
    path = download(remote(server.url, content), folder, progress=False, timeout=0.2, wait=0)
    assert path == folder / "birds.tgz"
    assert path.read_bytes() == content
    assert listed(folder) == ["birds.tgz"]  # nothing hidden is left
    return server.asked


# What the server does, and the ranges that are then asked for.
SURVIVED = {
    "honest": ([], [None]),
    "cuts off three times": (
        [cut_at(1000), cut_at(100_000), cut_at(299_999)],
        [None, "bytes=1000-", "bytes=100000-", "bytes=299999-"],
    ),
    "cuts off at once, four times": ([cut_at(0)] * 4, [None] * 5),
    "stalls": ([stall_at(70_000)], [None, "bytes=70000-"]),
    "resets": ([reset, cut_at(70_000), reset], [None, None, "bytes=70000-", "bytes=70000-"]),
    "says no HTTP": ([nonsense], [None, None]),
    "is overloaded": (
        [status(503), status(429), status(500), status(408)],
        [None] * 5,
    ),
    "gives no content": ([status(204)], [None, None]),
    "ignores the range": ([cut_at(70_000), whole(CONTENT)], [None, "bytes=70000-"]),
    "gives another range": (
        [cut_at(70_000), wrong_range("bytes 0-299999/300000")],
        [None, "bytes=70000-", None],
    ),
    "gives a range of another file": (
        [cut_at(70_000), wrong_range("bytes 70000-399999/400000")],
        [None, "bytes=70000-", None],
    ),
    "gives a range it does not name": (
        [cut_at(70_000), wrong_range("bytes of mine")],
        [None, "bytes=70000-", None],
    ),
    "knows no such range": ([cut_at(70_000), status(416)], [None, "bytes=70000-", None]),
    "changes the file, same length": (
        [cut_at(70_000, OTHER)],  # the pieces do not fit: once more, whole
        [None, "bytes=70000-", None],
    ),
    "redirects": ([redirect_on, cut_at(50_000), redirect_on], [None, None] + ["bytes=50000-"] * 2),
    "gives no length": ([without_length], [None]),
    "sends more than the file": ([longer_without_length], [None]),
}


@pytest.mark.parametrize("fault", SURVIVED)
def test_a_download_survives(server, tmp_path, fault):
    server.replies, asked = list(SURVIVED[fault][0]), SURVIVED[fault][1]
    assert fetched(server, tmp_path) == asked


def test_bytes_of_a_wrong_range_are_not_taken(server, tmp_path, monkeypatch):
    sums = []
    of_file = recurrent_attention.data._fetching.download._md5
    module = "recurrent_attention.data._fetching.download._md5"
    monkeypatch.setattr(module, lambda path: sums.append(of_file(path)) or sums[-1])
    server.replies = [cut_at(70_000), wrong_range("bytes 0-299999/300000")]
    fetched(server, tmp_path)
    assert sums == [hashlib.md5(CONTENT).hexdigest()]  # no sum of a mixture before


CALL_AGAIN = " Call again to go on."
REFUSED = {
    "always cuts off": (
        [cut_at(1000)] + [cut_at(1000)] * 9,
        "Expected to download {url}, but got: an end after 1000 bytes (5 tries, 1000 of 300000 "
        "bytes are there)." + CALL_AGAIN,
    ),
    "stalls always": (
        [stall_at(1000)] * 9,
        "Expected to download {url}, but got: timed out (5 tries, 1000 of 300000 bytes are there)."
        + CALL_AGAIN,
    ),
    "is down": (
        [status(503)] * 9,
        "Expected to download {url}, but got: HTTP 503 Service Unavailable (5 tries, 0 of 300000 "
        "bytes are there)." + CALL_AGAIN,
    ),
    "has no such file": (
        [status(404)],
        "Expected a file at {url}, but got: HTTP 404 Not Found.",
    ),
    "forbids": ([status(403)], "Expected a file at {url}, but got: HTTP 403 Forbidden."),
    "says too short a length": (
        [whole(CONTENT[:1000])],
        "Expected {url} to have 300000 bytes, but the server says 1000. It is another file.",
    ),
    "says too great a length": (
        [whole(CONTENT, Content_Length=10**12)],
        "Expected {url} to have 300000 bytes, but the server says 1000000000000. It is another "
        "file.",
    ),
    "gives a web page": (
        [whole(b"<html>Log in</html>", Content_Type="text/html; charset=utf-8")],
        "Expected an archive at {url}, but got a web page. Open the address in a browser to see "
        "what it says, or download the file by hand to {path}.",
    ),
    "gives another file of the same length": (
        [whole(OTHER)],
        f"Expected {{url}} to have the MD5 sum {hashlib.md5(CONTENT).hexdigest()}, but got "
        f"{hashlib.md5(OTHER).hexdigest()}. It is another file, or was damaged on its way; call "
        "again to try once more.",
    ),
    "redirects in circles": (
        [redirect_on] * 20,
        "Expected a file at {url}, but got: HTTP 302 The HTTP server returned a redirect error "
        "that would lead to an infinite loop. The last 30x error message was: Found.",
    ),
    "redirects to a file": (
        [redirect("file:///etc/passwd")],
        "Expected a file at {url}, but got: HTTP 302 Found - Redirection to url "
        "'file:///etc/passwd' is not allowed.",
    ),
    "redirects to ftp": (
        [redirect("ftp://127.0.0.1/birds.tgz")],
        "Expected a file at {url}, but got: HTTP 302 a redirect to ftp://127.0.0.1/birds.tgz.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", REFUSED)
def test_a_download_is_refused_in_one_sentence(server, tmp_path, fault):
    replies, sentence = REFUSED[fault]
    server.replies = list(replies)
    with pytest.raises(ConnectionError) as caught:
        fetched(server, tmp_path)
    assert str(caught.value) == sentence.format(url=server.url, path=tmp_path / "birds.tgz")
    assert not (tmp_path / "birds.tgz").exists()
    server.replies = []
    fetched(server, tmp_path)  # what was left does not stand in the way of a server that is well


def test_a_server_that_is_not_there(tmp_path):
    file = remote("http://127.0.0.1:9/birds.tgz")  # the port of `discard`, where nobody listens
    with pytest.raises(ConnectionError, match="but got: .*refused"):
        download(file, tmp_path, progress=False, wait=0)


def test_a_server_cannot_keep_it_going(server, tmp_path):
    """Half of the file, then a range that is none, and so on: each time the part starts over."""
    server.replies = [cut_at(150_000), status(416)] * 50
    with pytest.raises(ConnectionError, match="5 tries"):
        fetched(server, tmp_path)
    assert len(server.asked) <= 7


def test_a_second_call_goes_on_where_the_first_was_killed(server, tmp_path):
    part = tmp_path / ".birds.tgz.part"
    part.write_bytes(CONTENT[:123_456])
    assert fetched(server, tmp_path) == ["bytes=123456-"]
    (tmp_path / "birds.tgz").unlink()
    part.write_bytes(CONTENT)  # killed before it was renamed
    assert fetched(server, tmp_path) == ["bytes=123456-"]
    (tmp_path / "birds.tgz").unlink()
    part.write_bytes(CONTENT + b"more")
    assert fetched(server, tmp_path)[1:] == [None]
    (tmp_path / "birds.tgz").unlink()
    part.write_bytes(OTHER)  # of another file: found by its sum, and fetched anew
    assert fetched(server, tmp_path)[2:] == [None]
    assert fetched(server, tmp_path)[3:] == []  # it is there


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (CONTENT[:-1], "300000 bytes, but got 299999"),
        (
            OTHER,
            f"the MD5 sum {hashlib.md5(CONTENT).hexdigest()}, but got "
            f"{hashlib.md5(OTHER).hexdigest()}",
        ),
    ],
)
def test_another_file_of_that_name_is_left_alone(server, tmp_path, content, wrong):
    path = tmp_path / "birds.tgz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        fetched(server, tmp_path)
    assert str(caught.value) == (
        f"Expected {path} to have {wrong}. Remove the file and call again."
    )
    assert path.read_bytes() == content


def test_a_full_disk(server, tmp_path, monkeypatch):
    module = "recurrent_attention.data._fetching.download.shutil.disk_usage"
    monkeypatch.setattr(module, lambda path: type("Usage", (), {"free": 5000}))
    with pytest.raises(OSError) as caught:
        fetched(server, tmp_path)
    assert str(caught.value) == (
        f"Expected room for 300000 more bytes of birds.tgz in {tmp_path}, but 5000 are free. Make "
        "room and call again."
    )


def test_waits_grow(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("recurrent_attention.data._fetching.download.time.sleep", waits.append)
    server.replies = [status(503)] * 9
    with pytest.raises(ConnectionError):
        download(remote(server.url), tmp_path, progress=False, wait=1.5)
    assert waits == [1.5, 3, 6, 12]
