"""A caller's random numbers stay as they are: networks that are built to be looked at draw some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["undrawn"]


@contextmanager
def undrawn() -> Iterator[None]:
    """Torch's, NumPy's and Python's random numbers are behind it as they were. As a decorator it imports no torch."""
    from edgesearch.objectives.training import all_numbers_kept

    with all_numbers_kept():
        yield
