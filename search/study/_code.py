"""Where a study's own code is looked for: its folder first, then the working directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def code_beside(folder: Path | None) -> Iterator[None]:
    """While it lasts, import paths are looked for in `folder` (None: no folder), where Python looks, in the working directory.

    Jobs that are made meanwhile take these places with them to their workers. sys.path is afterwards what it was.
    """
    before = list(sys.path)
    if folder is not None:
        first = str(folder.resolve())
        sys.path[:] = [first, *(entry for entry in before if entry != first)]
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before
