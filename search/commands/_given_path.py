"""Paths as a person gives them to a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgesearch.errors import DataError
from edgesearch.files import expanded, is_utf8

__all__ = ["GivenPath"]


class GivenPath(click.Path):
    """A path whose ~ is the home folder, which shells leave as it is in `--output=~/x`.

    Raises DataError for what is no path, and where something is to be written to a name that is not UTF-8: no text can tell it.
    """

    def __init__(self, *, is_written: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay, dir_okay=dir_okay)
        self._is_written = is_written

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, with the home folder in the place of its ~."""
        name = "path" if param is None else param.opts[-1]
        if str(value) == "":
            raise DataError(f'{name}: "" is no path; give one, or leave it out')
        path = expanded(value, name, DataError)
        if self._is_written and not is_utf8(str(path)):
            raise DataError(f"{name} is {str(path)!r}, a path that is not UTF-8; give another name")
        return super().convert(path, param, ctx)
