"""A further table for the boards file."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesearch.board_eval.remote._boards import boards_path, parse_boards
from edgesearch.board_eval.remote._settings import BoardSettings
from edgesearch.errors import BoardError
from edgesearch.files import is_utf8, write_atomically

__all__ = ["add_board"]


def add_board(name: str, keys: Mapping[str, Any], path: str | Path | None = None, *, write: bool = True) -> BoardSettings:
    """Append `[board.NAME]` with these keys to the boards file, which is made where there is none; the rest stays as it is.

    With `write=False` it is only checked. Raises BoardError, and nothing is written, for a name that is taken, a key or value
    that is not valid, and a file that cannot be written.
    """
    place = boards_path(path)
    try:
        if not write:
            return _checked(_with_table(place, name, keys), place, name)[1]
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # two commands that add at once lose neither table
            content, settings = _checked(_with_table(place, name, keys), place, name)
            write_atomically(place.resolve(), content, mode=0o600)  # who enters which board, and how
        finally:
            os.close(folder)
    except OSError as error:
        raise BoardError(f"boards file {str(place)!r} cannot be written: {error.strerror or error}") from error
    return settings


def _with_table(place: Path, name: str, keys: Mapping[str, Any]) -> bytes:
    before = place.read_bytes() if place.exists() else b""
    if name in parse_boards(before, place).boards:
        raise BoardError(f"{place} has a board {name!r} already; give this one another name, or edit the file")
    title = name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)
    lines = [f"[board.{title}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    if unwritable := next((line for line in lines if not is_utf8(line)), None):
        what = unwritable.encode(errors="backslashreplace").decode()
        raise BoardError(f"{place} is UTF-8, which cannot say {what}; give another value")
    gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
    return before + gap + "\n".join(lines).encode() + b"\n"


def _checked(content: bytes, place: Path, name: str) -> tuple[bytes, BoardSettings]:
    return content, parse_boards(content, place).board(name)


def _toml(value: Any) -> str:
    """Strings, numbers and lists of strings; JSON's escapes are TOML's, except for the one of DEL."""
    if isinstance(value, float):
        return repr(value)  # TOML has nan and inf, too
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
