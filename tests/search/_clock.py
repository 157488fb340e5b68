"""A clock that a test turns."""

from __future__ import annotations


class Clock:
    """Tells `now`."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
