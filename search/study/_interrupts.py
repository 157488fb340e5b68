"""Ctrl-C and SIGTERM that are never lost.

Python raises KeyboardInterrupt wherever it happens to be. Where that is a callback of a library, or the end of an object, it is
printed and forgotten. A command therefore notes the signal, too, and the engine asks for it in every turn of its loop.
"""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["raise_if_interrupted", "watch_interrupts"]

_seen = False


def watch_interrupts() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and are noted."""
    global _seen
    _seen = False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt once more where one was raised and got lost. Does nothing without `watch_interrupts`."""
    if _seen:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
