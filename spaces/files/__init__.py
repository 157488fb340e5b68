"""Files that appear whole or not at all, folders that go with a killed process; paths, TOML and JSON as people write them."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesearch.errors import EdgesearchError
from edgesearch.files._watcher import Watcher as Watcher
from edgesearch.files._watcher import temporary_folder as temporary_folder

_NO_RIGHTS = "may not be read or written by this user; change its rights or those of the folders above it, or name another"
#: What the system says of any path that a person gives.
_OF_PATHS = {
    errno.ENAMETOOLONG: "is too long a name for its file system; give a shorter one",
    errno.EACCES: _NO_RIGHTS,
    errno.EPERM: _NO_RIGHTS,
}
#: Bytes of a file's or folder's name, on every usual file system.
_LONGEST_NAME = 255


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Raises OSError; then nothing is left behind.

    A new file has `mode`; who may read one that is replaced stays as it was.
    What is there and holds no bytes of its own, as /dev/null, is written to in its place.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, stat.S_IMODE(path.stat().st_mode) & 0o777 if path.is_file() else mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def expanded(path: str | Path, what: str, error: type[EdgesearchError]) -> Path:
    """The path with the home folder that its ~ means. Raises `error`, in a sentence about `what`, where it can be none."""
    if not isinstance(path, str | os.PathLike):
        raise error(f"{what} is of type {type(path).__name__}, expected a path")
    if "\0" in str(path):
        raise error(f"{what}: {str(path)!r} is no path; it has a NUL character")
    longest = max(Path(path).parts, key=lambda part: len(os.fsencode(part)), default="")
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise error(f"{what}: {str(path)!r} is no path; {longest!r} is longer than {_LONGEST_NAME} bytes")
    if not str(path).startswith("~"):  # "./~x" is a file
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as unknown:
        raise error(f"{what}: {str(path)!r} is no path; there is no home folder {Path(path).parts[0]}") from unknown


def cache_folder(*parts: str, error: type[EdgesearchError]) -> Path:
    """A folder for what can be brought again: in $EDGESEARCH_CACHE, else edgesearch in $XDG_CACHE_HOME, else in ~/.cache.

    Raises `error` where that can be no path.
    """
    base = os.environ.get("EDGESEARCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgesearch"
    return expanded(base, "cache", error).joinpath(*parts)


def said_of_path(error: OSError) -> str | None:
    """What is wrong with the path that a person gave, as a sentence that begins with it; None for an error of another kind."""
    if error.errno not in _OF_PATHS or error.filename is None:
        return None
    return f"{os.fsdecode(error.filename)!r} {_OF_PATHS[error.errno]}"


@contextmanager
def probing(what: str, kind: type[EdgesearchError]) -> Iterator[None]:
    """Around a look at paths that a person gave: raises `kind`, in a sentence about `what`, where the system forbids it."""
    try:
        yield
    except OSError as error:
        said = said_of_path(error)
        if said is None:
            raise
        raise kind(f"{what}: {said}") from error


def is_utf8(name: str) -> bool:
    """Whether a name can be written in UTF-8, which that of a file need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_toml(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file, with or without a byte-order mark. Raises ValueError, whose text says what is wrong."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the file in that encoding") from error
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def parse_json(text: str, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON text says, as `json.loads`. Raises ValueError, also for values that are nested too deeply for Python."""
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
