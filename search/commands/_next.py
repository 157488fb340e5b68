"""Commands that are named as the next ones: they can be pasted as they stand, and hold no password."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path

import click
from click.core import ParameterSource

from edgesearch.search.study import holds_password

_VARIABLE = "EDGESEARCH_STORAGE"
_HOME_VARIABLE = "EDGESEARCH_HOME"
_DEFAULT_HOME = "runs"


def options(study: str | None, home: Path, storage: str | None) -> str:
    """--study, unless it is None, --home and --storage as a shell takes them.

    A storage whose URL has a password is left to the environment variable that the commands read.
    """
    words = [*([] if study is None else ["--study", study]), *home_option(home)]
    if storage is not None and os.environ.get(_VARIABLE) != storage:
        if holds_password(storage):
            return f'{shlex.join(words)} --storage "${_VARIABLE}"'.lstrip()
        words += ["--storage", storage]
    return shlex.join(words)


def home_option(home: Path) -> list[str]:
    """--home, unless the command takes this one without it."""
    is_taken = str(home) == _DEFAULT_HOME == (os.environ.get(_HOME_VARIABLE) or _DEFAULT_HOME)
    return [] if is_taken else ["--home", str(home)]


def given(*, without: Collection[str]) -> list[str]:
    """What the command line that runs gives by options, as words of another one; not those whose names are in `without`.

    URLs with a password are left out: a study keeps its store.
    """
    context, words = click.get_current_context(), list[str]()
    for option in context.command.params:
        if not isinstance(option, click.Option) or option.name is None or option.name in without:
            continue
        if context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            value = context.params[option.name]
            for each in map(str, value if option.multiple else [value]):
                if not holds_password(each):
                    words += [option.opts[0]] if option.is_flag else [option.opts[0], each]
    return words


def hint(storage: str | None) -> str:
    """What must be done before the commands are pasted; "" for nothing."""
    if storage is None or os.environ.get(_VARIABLE) == storage or not holds_password(storage):
        return ""
    return f" (put the storage's URL into {_VARIABLE} first)"
