"""Numbers that a caller gives: those that the command refuses are refused here."""

from __future__ import annotations

import math

from edgesearch.errors import StudyError

__all__ = ["check_number", "check_share"]

#: Ray counts resources in ten-thousandths.
_LEAST_SHARE = 1e-4


def check_number(name: str, value: object, kind: type[int] | type[float], *, least: int, finite: bool = False) -> None:
    """Raise StudyError for a number that the command would refuse, too; None is what is not given."""
    taken = int if kind is int else (int, float)
    if value is None:
        return
    if not isinstance(value, taken) or isinstance(value, bool) or not value >= least or (finite and value == math.inf):
        what = "a whole number" if kind is int else "a finite number" if finite else "a number"
        raise StudyError(f"`{name}` is {value!r}, expected {what} of at least {least}")


def check_share(name: str, value: object) -> None:
    """Raise StudyError unless it is a share of a GPU: none, or one that Ray can count."""
    check_number(name, value, float, least=0, finite=True)
    if isinstance(value, float | int) and 0 < value < _LEAST_SHARE:
        raise StudyError(f"`{name}` is {value!r}, expected 0, or a share of a GPU of at least {_LEAST_SHARE}")
