"""Files below a URL, as object stores keep them: read whole, written whole, created only where there is none.

Any file system of fsspec serves. Whoever writes an object writes all of it or nothing; nothing here is appended to or renamed.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgesearch.errors import StoreError

__all__ = ["Objects", "is_url"]

T = TypeVar("T")

#: Seconds between tries of what a network may have failed; the file systems try a few times themselves, too.
_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
#: Protocols that create an object only where there is none, in one step on their server.
_CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
#: Those that have no folders, so that none must be made first.
_FLAT = _CONDITIONAL | {"memory"}
#: fsspec's memory looks first and writes then; its threads take turns here.
_MEMORY = threading.Lock()


def is_url(location: str) -> bool:
    """Whether it names a place by a protocol, as s3://bucket/folder does, and not by a path."""
    return re.match(r"[a-z][a-z0-9.+-]*://", location) is not None


class Objects:
    """The objects below a URL, by names with slashes.

    Credentials and servers' addresses are those of the file system's own configuration: its environment variables, or
    fsspec's files. Raises StoreError for a URL that fsspec cannot open, and for one with a password in it.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise StoreError(
                f"the store {parts.scheme}://...@{parts.netloc.rpartition('@')[2]} has a user in its URL, which would be shown "
                "and stored; leave it out and give it in the file system's own configuration (environment variables, "
                "~/.config/fsspec)"
            )
        if not (parts.netloc + parts.path).strip("/"):
            raise StoreError(f"the store {url!r} names no place; give a bucket and a folder, as s3://bucket/folder")
        self.url = url.rstrip("/")
        try:
            file_system, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(f"the store {url} needs a package: {error}") from error
        except Exception as error:
            raise StoreError(f"the store {url} cannot be opened: {_sentence(error)}") from error
        self._fs: Any = file_system  # without types
        self._root = str(root).rstrip("/")
        self._protocol = parts.scheme

    def shortcoming(self) -> str:
        """What the file system lacks that a store wants, in one sentence; "" for nothing. Writes and removes an object.

        Raises StoreError where it cannot be written.
        """
        name = f"tmp/{time.time_ns()}"
        self._create(name, b"1")
        is_refused = not self._create(name, b"2")
        self.remove(name)
        if is_refused and self._protocol in _CONDITIONAL | {"memory"}:
            return ""
        return (
            f"the file system of {self.url} cannot create a file only where there is none in one step: two machines may make "
            "the same stage at the same time, and the later result then stands"
        )

    def read(self, name: str) -> bytes | None:
        """The object; None where there is none."""
        try:
            return bytes(self._reach(f"{name} cannot be read", lambda: self._fs.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Many objects, side by side where the file system can; those that are gone are left out."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        found = self._reach("objects cannot be read", lambda: self._fs.cat(list(paths), on_error="return"))
        return {paths[path]: bytes(content) for path, content in found.items() if not isinstance(content, Exception)}

    def create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none; whether this one is there now.

        True also where exactly this is there: an answer may get lost, and what was asked for is done twice.
        """
        return self._create(name, content, _WAITS) or self.read(name) == content

    def replace(self, name: str, content: bytes) -> None:
        """Write an object, whatever is there."""
        self._write(name, content, "overwrite", _WAITS)

    def copy(self, name: str, to: str) -> None:
        """Copy an object that is there; nothing happens where it is not."""
        self._make_room(to)
        with contextlib.suppress(FileNotFoundError):
            self._reach(f"{name} cannot be copied", lambda: self._fs.cp_file(self._path(name), self._path(to)))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._reach(f"{name} cannot be removed", lambda: self._fs.rm_file(self._path(name)))

    def names(self, prefix: str) -> list[str]:
        """The names of all objects below a folder, sorted."""

        def find() -> list[str]:
            self._fs.invalidate_cache()
            return [str(path) for path in self._fs.find(self._path(prefix))]

        try:
            found = self._reach(f"{prefix} cannot be listed", find)
        except FileNotFoundError:
            return []
        return sorted(path[len(self._root) :].lstrip("/") for path in found)

    def _create(self, name: str, content: bytes, waits: tuple[float, ...] = ()) -> bool:
        try:
            with _MEMORY if self._protocol == "memory" else contextlib.nullcontext():
                self._write(name, content, "create", waits)
        except FileExistsError:
            return False
        return True

    def _write(self, name: str, content: bytes, mode: str, waits: tuple[float, ...]) -> None:
        self._make_room(name)
        try:
            self._reach(f"{name} cannot be written", lambda: self._fs.pipe_file(self._path(name), content, mode=mode), waits)
        except FileNotFoundError as error:
            raise StoreError(f"there is no place {self.url} to write to ({_sentence(error)}); make its bucket first") from error

    def _make_room(self, name: str) -> None:
        if self._protocol not in _FLAT:
            folder = self._path(name).rpartition("/")[0]
            self._reach(f"{folder} cannot be made", lambda: self._fs.makedirs(folder, exist_ok=True))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _reach(self, what: str, act: Callable[[], T], waits: tuple[float, ...] = _WAITS) -> T:
        """Try, and again where a network may be at fault. What is there or is not there is told as it is."""
        for wait in (*waits, None):
            try:
                return act()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # each file system has errors of its own
                if wait is None or not _may_pass(error):
                    raise StoreError(
                        f"the store {self.url} does not serve: {what}: {_sentence(error)}; check its address and your rights"
                    ) from error
                time.sleep(wait)
        raise AssertionError


def _may_pass(error: Exception) -> bool:
    if isinstance(error, PermissionError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or any("Connect" in name or "Timeout" in name for name in names)


def _sentence(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
