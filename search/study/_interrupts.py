"""Ctrl-C and SIGTERM that are never lost.

Python raises KeyboardInterrupt wherever it happens to be. Where that is a callback of a library, or the end of an object, it is
printed and forgotten. A command therefore notes the signal, too, and the engine asks for it in every turn of its loop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["raise_if_interrupted", "watch_interrupts"]

_seen = False


@contextmanager
def watch_interrupts() -> Iterator[None]:
    """While it lasts SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and are noted.

    A signal that this process ignores stays ignored. Does nothing in another thread, where Python sets no handlers.
    """
    global _seen
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    watched = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    _seen = False
    try:
        for number in watched:
            signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in watched.items():
            signal.signal(number, handler)
        _seen = False


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt once more where one was raised and got lost. Does nothing outside of `watch_interrupts`."""
    if _seen:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
