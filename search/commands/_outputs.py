"""Files that a person wants written: what cannot be is refused before the work, not after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgesearch.errors import DataError


def check_output(path: Path, option: str, inputs: Mapping[str, Path | None], *, appends: bool = False) -> None:
    """Raise DataError where no file can be written to `path`, given as `option`, or where it is one of those that are read.

    `inputs` are these, by what a person calls them. appends: a file that is there is not replaced, so that its folder may be
    closed to this user.
    """
    for what, source in inputs.items():
        if source is not None and os.path.realpath(path) == os.path.realpath(source):
            raise DataError(f"{option} {str(path)!r} is {what} itself; give the result another name")
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not path.parent.is_dir():
        reason = f"there is no folder {str(path.parent)!r}"
    elif ((path.is_file() and not appends) or not path.exists()) and not os.access(path.parent, os.W_OK):
        reason = f"nothing may be written to the folder {str(path.parent)!r}"
    if reason is not None:
        raise DataError(f"{option} {str(path)!r} cannot be written: {reason}")
