"""Downloading one large file: resumed where it broke off, checked by size and MD5."""

import hashlib
import http.client
import os
import re
import shutil
import time
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from recurrent_attention._errors import printable
from recurrent_attention._files import check_regular_file

BLOCK = 2**20  # bytes; more at once is not faster, less makes the bar jump less
TIMEOUT = 30.0  # seconds without a byte: a busy server's pause, not a slow line
TRIES = 5  # in a row that bring nothing; with the waits below they span 15 seconds
WAIT = 1.0  # seconds before the second try, doubled before each further one
ENOUGH = 0.01  # share of the file that makes a broken connection no failed try: at most 100 of them
PASSING = (408, 425, 429)  # refusals that another try may not meet; so are those from 500 on


class RemoteFile(NamedTuple):
    """A file on a server, and how to know it again.

    Attributes:
        url: of the file; the last part of its path names the file on disk.
        size: in bytes.
        md5: its MD5 sum, 32 hexadecimal digits.
    """

    url: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The name of the file on disk."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]


class _BrokenOff(Exception):  # noqa: N818
    """A connection ended before the file did; another one may bring the rest."""


def download(
    file: RemoteFile,
    folder: Path,
    *,
    progress: bool = True,
    timeout: float = TIMEOUT,
    wait: float = WAIT,
) -> Path:
    """Download a file, or what is missing of it; a file that is there already stays as it is.

    Bytes are collected in a hidden file beside, which a later call goes on with. Only with the
    right size and MD5 sum it gets its name. Two processes must not do this at once in one folder.

    Args:
        file: what to download.
        folder: where to put it; made if it is missing.
        progress: show a bar.
        timeout: seconds without a byte after which a connection counts as broken.
        wait: seconds before the second try; doubled before each further one.

    Returns:
        The path of the file.

    Raises:
        ConnectionError: if the server cannot be reached, or does not give this file.
        ValueError: if another file has its name already.
        OSError: if the disk is full, or the folder cannot be written to.
    """
    path = folder / file.name
    if path.exists():
        _check_present(path, file)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{file.name}.part"
    for last in (False, True):
        in_one_go = _fill(part, file, progress, timeout, wait)
        found = _md5(part)
        if found == file.md5:
            break
        part.unlink()
        # Pieces may be of two files, where the server's changed between them: once more, whole.
        if in_one_go or last:
            raise ConnectionError(
                f"Expected {file.url} to have the MD5 sum {file.md5}, but got {found}. It is "
                "another file, or was damaged on its way; call again to try once more."
            )
    part.replace(path)
    return path


def _check_present(path: Path, file: RemoteFile) -> None:
    size = path.stat().st_size
    if size == file.size:
        if (found := _md5(path)) == file.md5:
            return
        wrong = f"the MD5 sum {file.md5}, but got {found}"
    else:
        wrong = f"{file.size} bytes, but got {size}"
    raise ValueError(f"Expected {printable(path)} to have {wrong}. Remove the file and call again.")


def _md5(path: Path) -> str:
    check_regular_file(path, "an archive")
    with path.open("rb") as opened:
        return hashlib.file_digest(
            opened, lambda: hashlib.new("md5", usedforsecurity=False)
        ).hexdigest()


def _fill(part: Path, file: RemoteFile, progress: bool, timeout: float, wait: float) -> bool:
    """Append to `part` until it is as long as the file; tell whether one connection did it all."""
    part.touch()
    most = part.stat().st_size
    failed = connections = 0
    in_one_go = most == 0
    with tqdm(
        total=file.size, desc=file.name, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        while (have := part.stat().st_size) != file.size:
            connections += 1
            try:
                _receive(part, file, have if have < file.size else 0, bar, timeout)
            except _BrokenOff as error:
                # Counted from the most there ever was, so that no server can keep this going.
                have = part.stat().st_size
                failed = 0 if have - most >= ENOUGH * file.size else failed + 1
                most = max(most, have)
                if failed == TRIES:
                    raise ConnectionError(
                        f"Expected to download {file.url}, but got: {printable(error)} ({TRIES} "
                        f"tries, {have} of {file.size} bytes are there). Call again to go on."
                    ) from error
                time.sleep(wait * 2 ** max(failed - 1, 0))
    return in_one_go and connections == 1


def _receive(part: Path, file: RemoteFile, have: int, bar: "tqdm[Any]", timeout: float) -> None:
    """Receive what follows the first `have` bytes over one connection."""
    free = shutil.disk_usage(part.parent).free
    if free < file.size - have:
        raise OSError(
            f"Expected room for {file.size - have} more bytes of {file.name} in "
            f"{printable(part.parent)}, but {free} are free. Make room and call again."
        )
    with _open(part, file, have, timeout) as response:
        if response.status == http.client.OK:
            have = 0  # the whole file, whatever was asked for
        bar.n = have
        with part.open("r+b") as out:
            out.truncate(have)
            out.seek(have)
            while have < file.size:
                block = _read(response, min(BLOCK, file.size - have))
                if not block:
                    raise _BrokenOff(f"an end after {have} bytes")
                out.write(block)
                have += len(block)
                bar.update(len(block))
            out.flush()
            os.fsync(out.fileno())


def _open(part: Path, file: RemoteFile, have: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "recurrent-attention", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: http.client.HTTPResponse = _opener().open(
            request.Request(file.url, headers=headers), timeout=timeout
        )
    except HTTPError as error:
        error.close()
        said = f"HTTP {error.code} {error.reason}".replace("\n", " ")
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            os.truncate(part, 0)
            raise _BrokenOff(said) from None
        if error.code in PASSING or error.code >= 500:
            raise _BrokenOff(said) from None
        raise ConnectionError(f"Expected a file at {file.url}, but got: {said}.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _BrokenOff(_said(error)) from error
    try:
        _check_headers(response, part, file, have)
    except BaseException:
        response.close()
        raise
    return response


def _check_headers(
    response: http.client.HTTPResponse, part: Path, file: RemoteFile, have: int
) -> None:
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise ConnectionError(
            f"Expected an archive at {file.url}, but got a web page. Open the address in a browser "
            "to see what it says, or download the file by hand to "
            f"{printable(part.parent / file.name)}."
        )
    if response.status == http.client.PARTIAL_CONTENT and have:
        given = response.headers.get("Content-Range", "none")
        expected = rf"bytes {have}-{file.size - 1}/({file.size}|\*)"
        if not re.fullmatch(expected, given.strip()):
            os.truncate(part, 0)  # the next try asks for the whole file
            raise _BrokenOff(f"the range {given!r} instead of the bytes from {have} on")
    elif response.status == http.client.OK:
        length = response.headers.get("Content-Length", str(file.size)).strip()
        if length != str(file.size):
            raise ConnectionError(
                f"Expected {file.url} to have {file.size} bytes, but the server says {length}. It "
                "is another file."
            )
    else:
        raise _BrokenOff(f"HTTP {response.status} {response.reason}")


def _read(response: IO[bytes] | http.client.HTTPResponse, most: int) -> bytes:
    try:
        return response.read1(most)  # type: ignore[union-attr]
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _BrokenOff(_said(error)) from error


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # urllib wraps what went wrong
    return (str(reason) or type(reason).__name__).rstrip(".")


class _Redirects(request.HTTPRedirectHandler):
    """Follow redirects to http and https only, and never from https back to http."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise HTTPError(newurl, code, f"a redirect to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Give an opener that knows http and https alone: no file:, no ftp:."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener
