"""Calling a user's own code: whatever it raises is told as an error of edgesearch, with what raised it as its cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgesearch.errors import EdgesearchError, PluginError, SettingsError, in_one_line

#: A lack of memory is the machine's; torch's own error is known by its name, since torch is imported late.
_OF_MEMORY = "OutOfMemoryError"


@contextmanager
def calling(what: str, kind: type[EdgesearchError] = PluginError) -> Iterator[None]:
    """Around a call of a user's own code; `what` names it by its import path, as "board 'my_lab:Bench'".

    Raises `kind` for what the code raises. Errors of edgesearch and those of memory pass as they are, but for settings that the
    code makes: these do not say whose they are.
    """
    try:
        yield
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        if type(error).__name__ == _OF_MEMORY or (isinstance(error, EdgesearchError) and not isinstance(error, SettingsError)):
            raise
        raise kind(f"{what} failed: {in_one_line(error)}{_where(error)}") from error


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
