"""A file from the network: under its name only once it is whole and is the one that was asked for."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["FetchFailed", "fetch", "is_whole"]

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
#: A connection that brought something before it broke is tried again this often at most.
_ATTEMPTS = 5


class FetchFailed(Exception):
    """Why a file did not come, in a few words."""


@dataclass(frozen=True)
class _Checksum:
    """How a checksum is called, what computes it, and what it begins with."""

    name: str
    algorithm: Callable[[], Any]
    start: str

    def of(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest()


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)  # against damage; a data set's publishers give no other


def fetch(url: str, path: Path, *, sha256: str = "", md5: str = "", note: Callable[[str], object] = lambda line: None) -> None:
    """Bring `url` to `path`, unless that is there. `sha256` is what its SHA-256, hexadecimal, begins with, or `md5` its MD5.

    What has come is kept as `path` with ".part" behind it, and gone on with by the next call if the connection breaks. Of
    several processes one fetches while the others wait. Raises FetchFailed when it does not come, or is another file.
    """
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # another process has brought it meanwhile; `file` is that one then
                return
            note(f"downloading {url} to {path.parent}")
            _fetch(url, file, part, _Checksum("MD5", _md5, md5) if md5 else _Checksum("SHA-256", hashlib.sha256, sha256))
            os.replace(part, path)
    except OSError as error:
        raise FetchFailed(f"{path.parent} cannot be written: {error.strerror or error}") from error


def is_whole(path: Path, *, md5: str) -> bool:
    """Whether the file's MD5 is this one. Raises OSError."""
    return _Checksum("MD5", _md5, md5).of(path) == md5


def _fetch(url: str, file: IO[bytes], part: Path, checksum: _Checksum) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        begun = file.seek(0, os.SEEK_END)
        failure = _receive(url, file)
        size = file.seek(0, os.SEEK_END)
        if not failure:
            found = checksum.of(part)
            if found.startswith(checksum.start):
                return
            file.truncate(0)  # what was kept may be of another file: once more from the start
            start = found[: len(checksum.start)]
            failure = f"{url} is another file than expected: its {checksum.name} begins with {start}, not {checksum.start}"
            if not begun or attempt == _ATTEMPTS:
                raise FetchFailed(failure)
        elif size <= begun or attempt == _ATTEMPTS:
            raise FetchFailed(
                f"{failure}; {size:,} bytes are kept, and the same command goes on with them" if size else failure
            )


def _receive(url: str, file: IO[bytes]) -> str:
    """Append to the file what it lacks of `url`; returns why that was not all, or ""."""
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "edgesearch"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
            if have and response.status != http.client.PARTIAL_CONTENT:
                file.truncate(0)
                have = 0
            expected, received = response.headers.get("Content-Length"), 0
            while chunk := response.read(_CHUNK):
                received += _write(file, chunk)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is lacking; the checksum says if so
            return ""
        return f"{url}: {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{url}: {getattr(error.reason, 'strerror', None) or error.reason}"
    except _DiskFailed as error:
        raise error.reason from error
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: the connection broke ({error or type(error).__name__})"
    if expected is not None and received < int(expected):
        return f"{url}: the connection broke after {have + received:,} of {have + int(expected):,} bytes"
    return ""


class _DiskFailed(Exception):
    """What the disk said, which is no failure of the network."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _write(file: IO[bytes], chunk: bytes) -> int:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise _DiskFailed(error) from error
    return len(chunk)
