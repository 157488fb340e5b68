"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: 41 ms, 5.0 s, 10.0 min, 24.0 h."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
