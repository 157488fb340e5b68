"""What a run of the engine did."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """Trials that this run completed, that failed or were stopped at a rung of their training, and asks that became none.

    `exhausted`: nothing was left to propose before the study had its trials.
    """

    finished: int
    failed: int
    rejected: int
    repeats: int
    exhausted: bool
    stopped: int = 0
