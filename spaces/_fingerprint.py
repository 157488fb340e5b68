"""The checksum of a weights file, which stands for its content in keys."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from edgesearch.errors import SpaceError

__all__ = ["file_fingerprint", "weights_fingerprint"]


def weights_fingerprint(path: str) -> str:
    """SHA-256 of a weights file; "" for no file. Raises SpaceError when it cannot be read."""
    if path in ("", "imagenet"):
        return ""
    try:
        return file_fingerprint(Path(path))
    except OSError as error:
        raise SpaceError(f"weights {path!r} cannot be read ({error.strerror or error}); give a file, or 'imagenet'") from error


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file, read anew only when its size or time of change is another. Raises OSError."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
