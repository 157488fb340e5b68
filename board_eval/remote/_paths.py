"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from edgesearch.errors import BoardError

__all__ = ["expanded"]


def expanded(path: str | Path, what: str) -> Path:
    """The path with the home folder that its ~ means. Raises BoardError, which begins with `what`, where it can be none."""
    if "\0" in str(path):
        raise BoardError(f"{what}: {str(path)!r} is no path; it has a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise BoardError(f"{what}: {str(path)!r} is no path; there is no home folder {user}") from error
