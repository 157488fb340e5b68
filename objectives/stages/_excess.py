"""Limits by name, "min_fps" or "max_size_bytes", and by how much a metric misses one."""

from __future__ import annotations

__all__ = ["excess", "metric_of"]


def metric_of(limit: str) -> str:
    """The metric that a limit is put to: "fps" of "min_fps"."""
    return limit.partition("_")[2]


def excess(name: str, limit: float, value: float) -> float:
    """By how much a metric's `value` misses the limit with this name, at most zero where it is kept."""
    return float(limit - value if name.startswith("min_") else value - limit)
