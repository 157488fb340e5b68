"""Progress for a program: silent, or told to a function line by line."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, cast

from rich.console import Console

from edgesearch.errors import StudyError
from edgesearch.search.engine import PlainProgress, Progress


class _Lines(io.TextIOBase):
    """A text file that hands every whole line to a function."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)


def as_progress(progress: Progress | Callable[[str], object] | None) -> Progress:
    """None is silent; a function is told each line that the command prints to a file; a Progress is itself."""
    if progress is None:
        return PlainProgress(Console(quiet=True, file=io.StringIO()))
    if callable(progress):
        return PlainProgress(Console(file=cast("IO[str]", _Lines(progress)), force_terminal=False, color_system=None))
    if not callable(getattr(progress, "note", None)):
        raise StudyError(f"`progress` is of type {type(progress).__name__}, expected a function of a line, or None")
    return progress
