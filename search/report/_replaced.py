"""Files that a report or a picture may take the place of: none, and an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgesearch.errors import StudyError

__all__ = ["check_replaceable"]


#: What their files end in, and what they start with.
_SUFFIXES = {"HTML": (".html", ".htm"), "SVG": (".svg",)}
_STARTS = {"HTML": ("<!doctype html", "<html"), "SVG": ("<svg", "<?xml")}


def check_replaceable(path: Path, kind: Literal["HTML", "SVG"]) -> None:
    """Raise StudyError where there is a file of another kind, by its name and its content: a database, say, or a study."""
    if path.suffix.lower() in _SUFFIXES[kind] or not path.is_file():
        return
    with path.open("rb") as file:
        found = file.read(4096).decode("utf-8", "replace").lstrip().lower()
    if found and not found.startswith(_STARTS[kind]):
        raise StudyError(f"{path} is no {kind}, which would take its place; give another name, or remove it first")
