"""Signs of life of workers: each touches the log of its stage now and then, however long the stage says nothing.

A process that is frozen, starved or out of reach touches nothing. Nor does one whose stage waits for something that does not
come: its thread uses no processor, and no program that was started meanwhile runs for it. (A stage that computes for ever is
not told from one that takes long.) What counts is that the time of the log changes, seen by the driver's own clock: clocks of
other machines may be wrong.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgesearch.search.study import duration
from edgesearch.threads import alongside

__all__ = ["HANG_S", "Heartbeats", "beating", "hung", "touched_at"]

#: A worker that gives no sign of life for so many seconds hangs, if nothing else is said.
HANG_S = 900.0

#: Seconds between two signs of life.
_EVERY_S = 5.0


@dataclass
class _Beat:
    log: Path
    touched: int | None  # when, as the file system has it; None: there is no log
    since: float | None = None  # when that was last seen to change; None: the job has not begun
    seen: bool = False  # whether it did


class Heartbeats:
    """Which jobs began and then gave no sign of life for `limit_s` seconds. `clock` gives seconds that only grow."""

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._beats: dict[str, _Beat] = {}
        self._looked = clock()

    def begin(self, key: str, log: str, *, at_once: bool = False) -> None:
        """A job was given to a worker, and may wait there, unless it begins `at_once`; what its log holds already is of an
        earlier attempt.
        """
        self._beats[key] = _Beat(Path(log), touched_at(Path(log)), self._clock() if at_once else None)

    def has_begun(self, key: str) -> bool:
        """Whether the job wrote to its log."""
        beat = self._beats[key]
        return beat.seen or touched_at(beat.log) != beat.touched

    def end(self, key: str) -> None:
        """The job ended."""
        self._beats.pop(key, None)

    def clear(self) -> None:
        """All jobs ended."""
        self._beats.clear()

    def silent(self) -> list[str]:
        """The keys of jobs that hang. To be asked often: after a long break, which may have been theirs, all count anew."""
        now = self._clock()
        was_away, self._looked = now - self._looked > self.limit_s / 2, now
        found = []
        for key, beat in self._beats.items():
            touched = touched_at(beat.log)
            if touched != beat.touched or (was_away and beat.since is not None):
                beat.seen |= touched != beat.touched
                beat.touched, beat.since = touched, now
            elif beat.since is None or (beat.seen and touched is None):  # it waits, or a person removed its log
                continue
            elif now - beat.since > self.limit_s:
                found.append(key)
        return found


@contextmanager
def beating(log: Path, *, waits: bool = False, every_s: float = _EVERY_S) -> Iterator[None]:
    """Touches the log while it lasts, and the calling thread, or a program that it started, is at work.

    With `waits` all the while: others are at work for it, and it is theirs to say how long that may take.
    """
    clock = time.pthread_getcpuclockid(threading.get_ident())
    others = set(psutil.Process().children())  # of the process, whatever it runs

    def beat(over: threading.Event) -> None:
        spent = -1.0
        while not over.wait(every_s):
            before, spent = spent, time.clock_gettime(clock)
            # Programs that a stage starts are held to times of their own; a container's use no processor that is seen here.
            if waits or spent > before or not others.issuperset(psutil.Process().children()):
                with suppress(OSError):
                    os.utime(log)

    with alongside(beat, "heartbeat"):
        yield


def hung(seconds: float) -> str:
    """What became of a worker that hung, in words."""
    return f"the worker gave no sign of life for {duration(seconds)} and was stopped"


def touched_at(log: Path) -> int | None:
    """When the log was written or touched last, as the file system has it; None: there is no log."""
    try:
        return log.stat().st_mtime_ns
    except OSError:
        return None
