"""Copies on this machine of files that lie in an object store: each is fetched once, and checked on every use.

They lie where `cache_folder` says. Those that were not used for longest go when there are too many.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from edgesearch.errors import StoreError
from edgesearch.files import cache_folder
from edgesearch.objectives.stages._entries import file_checksum, writing

__all__ = ["LocalCopies"]

#: Bytes of copies that are kept.
_MOST = 20 << 30


class LocalCopies:
    """The copies of one store's files, in folders of their entries. Several processes may use them at the same time."""

    def __init__(self, location: str, *, most: int = _MOST) -> None:
        self._all = cache_folder("stores", error=StoreError)
        self.root = self._all / hashlib.sha256(location.encode()).hexdigest()[:16]
        self._most: int | None = most
        self._verified: dict[Path, tuple[int, int, int]] = {}

    def folder(self, kind: str, key: str, writing_of: str) -> Path:
        """Where the files of one writing of an entry lie; it may not be there yet."""
        return self.root / kind / key / writing_of

    def find(self, path: Path, checksum: str) -> bool:
        """Whether a copy is there and right. One that is not is removed."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        state = (found.st_size, found.st_mtime_ns, found.st_ino)
        if self._verified.get(path) != state:
            if file_checksum(path) != checksum:
                path.unlink(missing_ok=True)
                return False
            with suppress(OSError):
                os.utime(path)  # it is used
                found = path.stat()
            self._verified[path] = (found.st_size, found.st_mtime_ns, found.st_ino)
        return True

    def add(self, path: Path, content: bytes) -> None:
        """Keep a file that was fetched. Raises StoreError where the disk refuses."""
        with writing(f"a copy in {self._all} (the variable EDGESEARCH_CACHE names another folder)"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
            try:
                temporary.write_bytes(content)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        self._trim()

    def forget(self, kind: str, key: str) -> None:
        """Remove the copies of an entry."""
        shutil.rmtree(self.root / kind / key, ignore_errors=True)

    def _trim(self) -> None:
        """Once in a process: remove what was not used for longest, of all stores, until the rest is small enough."""
        if self._most is None:
            return
        most, self._most = self._most, None
        found = []
        for path in self._all.rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most:
                return
            with suppress(OSError):
                path.unlink()
                total -= size
