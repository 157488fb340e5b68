"""Processes that Linux ended because memory ran out, which to their parents look like any that was killed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_kills"]

_COUNTERS = Path("/proc/vmstat")


def memory_kills() -> int:
    """How many there were on this machine since it started; 0 where the system does not tell."""
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0
    counts = dict(line.split(maxsplit=1) for line in lines if line.count(" ") == 1)
    return int(counts.get("oom_kill", 0))
