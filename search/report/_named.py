"""Trials that a sentence names."""

from __future__ import annotations

from collections.abc import Sequence

#: Trials, or choices, that are named before "and N more".
NAMED = 12


def named(trials: Sequence[str]) -> str:
    """The first trials of a list, and how many more there are."""
    more = f" and {len(trials) - NAMED} more" if len(trials) > NAMED else ""
    return ", ".join(trials[:NAMED]) + more
