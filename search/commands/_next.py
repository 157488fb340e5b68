"""Commands that are named as the next ones: they can be pasted as they stand, and hold no password."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sqlalchemy import make_url

_VARIABLE = "EDGESEARCH_STORAGE"
_DEFAULT_HOME = Path("runs")


def options(study: str | None, home: Path, storage: str | None) -> str:
    """--study, unless it is None, --home and --storage as a shell takes them.

    A storage whose URL has a password is left to the environment variable that the commands read.
    """
    words = [] if study is None else ["--study", study]
    if home != _DEFAULT_HOME:
        words += ["--home", str(home)]
    if storage is not None and os.environ.get(_VARIABLE) != storage:
        if make_url(storage).password is not None:
            return f'{shlex.join(words)} --storage "${_VARIABLE}"'.lstrip()
        words += ["--storage", storage]
    return shlex.join(words)


def hint(storage: str | None) -> str:
    """What must be done before the commands are pasted; "" for nothing."""
    if storage is None or os.environ.get(_VARIABLE) == storage or make_url(storage).password is None:
        return ""
    return f" (put the storage's URL into {_VARIABLE} first)"
