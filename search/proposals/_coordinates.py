"""Candidates as points: their coordinates, and how far they lie apart.

A candidate's settings, and what is known of it before training (its work, size and speed), are its coordinates. They form
groups: the metrics, the student, its teaching, pruning, quantization. Numbers count by their distance, in spans of all that are
compared, names by whether they are equal, and a setting that only one of two candidates has by the largest distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesearch.spaces import Candidate

__all__ = ["GROUPS", "Axes", "Point", "Rows"]

Array = NDArray[np.float64]
GROUPS = ("metrics", "student", "distillation", "pruning", "quantization")
#: Metrics that are coordinates, by their logarithms.
_METRICS = ("macs", "size_bytes", "fps", "latency_ms")
_Axis = tuple[str, str]  # group and name


@dataclass(frozen=True)
class Point:
    """A candidate's coordinates: by group and name, numbers or names."""

    numbers: Mapping[_Axis, float]
    names: Mapping[_Axis, str]

    @classmethod
    def of(cls, candidate: Candidate, estimate: Mapping[str, Any]) -> Point:
        """Of a candidate, and its metrics before training."""
        numbers: dict[_Axis, float] = {}
        names: dict[_Axis, str] = {}
        for group, settings in candidate.model_dump(mode="json").items():
            for name, value in _flat(settings):
                if isinstance(value, bool | str):
                    names[group, name] = str(value)
                elif isinstance(value, int | float):
                    numbers[group, name] = float(value)
        for name in _METRICS:
            value = estimate.get(name)
            if isinstance(value, int | float) and value > 0:
                numbers["metrics", name] = math.log(value)
        return cls(numbers, names)


@dataclass(frozen=True)
class Rows:
    """Points (rows) on the first axes: numbers, NaN where a point has none; codes of names, 0 where it has none."""

    numbers: Array
    names: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.numbers)


class Axes:
    """All axes that points were seen to have. Points become rows once, and are compared many times."""

    def __init__(self) -> None:
        self._numbers: dict[_Axis, int] = {}
        self._names: dict[_Axis, int] = {}
        self._codes: list[dict[str, int]] = []  # of the names on each axis

    def row(self, point: Point) -> Rows:
        """The point as one row."""
        for axis in point.numbers:
            self._numbers.setdefault(axis, len(self._numbers))
        for axis in point.names:
            if self._names.setdefault(axis, len(self._names)) == len(self._codes):
                self._codes.append({})
        numbers, names = np.full((1, len(self._numbers)), np.nan), np.zeros((1, len(self._names)), dtype=np.int32)
        for axis, value in point.numbers.items():
            numbers[0, self._numbers[axis]] = value
        for axis, name in point.names.items():
            codes = self._codes[self._names[axis]]
            names[0, self._names[axis]] = codes.setdefault(name, len(codes) + 1)
        return Rows(numbers, names)

    def join(self, parts: Sequence[Rows]) -> Rows:
        """All rows of the parts, on all axes."""
        count = sum(map(len, parts))
        numbers, names = np.full((count, len(self._numbers)), np.nan), np.zeros((count, len(self._names)), dtype=np.int32)
        start = 0
        for part in parts:
            end = start + len(part)
            numbers[start:end, : part.numbers.shape[1]] = part.numbers
            names[start:end, : part.names.shape[1]] = part.names
            start = end
        return Rows(numbers, names)

    def squares(self, known: Rows, points: Rows) -> list[Array]:
        """For each group the squared distances of the known rows, and then the others, from the known: (rows, known).

        They do not depend on the order in which axes and names were seen.
        """
        return [_products([pair]) for pair in self._pairs(known, points)]

    def weighted_squares(self, known: Rows, points: Rows, weights: Sequence[float]) -> Array:
        """The sum of the groups' squares, each times its weight, as one matrix product: (rows, known)."""
        pairs = zip(self._pairs(known, points), weights, strict=True)
        return _products([(weight * left, right) for (left, right), weight in pairs])

    def _pairs(self, known: Rows, points: Rows) -> Iterator[tuple[Array, Array]]:
        """For each group two matrices, (rows, features) and (known, features), whose product its squares are."""
        everything, count = self.join([known, points]), len(known)
        for group in GROUPS:
            columns = [place for axis, place in sorted(self._numbers.items()) if axis[0] == group]
            numbers = _of_numbers(everything.numbers[:, columns], count)
            columns = [place for axis, place in sorted(self._names.items()) if axis[0] == group]
            names = _of_names(everything.names[:, columns], count)
            yield np.hstack([numbers[0], names[0]]), np.hstack([numbers[1], names[1]])


def _products(pairs: Iterable[tuple[Array, Array]]) -> Array:
    lefts, rights = zip(*pairs, strict=True)
    return np.asarray(np.maximum(np.hstack(lefts) @ np.hstack(rights).T, 0.0))


def _of_numbers(values: Array, count: int) -> tuple[Array, Array]:
    """Features of all rows and of the first `count`, whose products are sums over the columns of squared distances.

    (a - b)^2 where both have a number, 1 where one has.
    """
    has = ~np.isnan(values)
    low = np.min(values, axis=0, initial=np.inf, where=has)
    span = np.max(values, axis=0, initial=-np.inf, where=has) - low
    differs = (span > 0) | (has.any(axis=0) & ~has.all(axis=0))
    values, has, low, span = values[:, differs], has[:, differs].astype(float), low[differs], span[differs]
    x = np.where(has > 0, (values - low) / np.where(span > 0, span, 1.0), 0.0)
    alone = x * x + (1.0 - has)  # a row's own part, where the other has a number; what lacks one is 1 from it
    return np.hstack([alone, has, -2.0 * x]), np.hstack([has[:count], alone[:count], x[:count]])


def _of_names(codes: NDArray[np.int32], count: int) -> tuple[Array, Array]:
    """Features of all rows and of the first `count`, whose products are how many names differ."""
    columns = [column for column in codes.T if (column != column[0]).any()]
    # in the order of the rows, so that sums do not depend on the codes
    is_one = [column == value for column in columns for value in dict.fromkeys(column.tolist())]
    equal = np.array(is_one, dtype=float).reshape(-1, len(codes)).T
    ones, total = np.ones((count, 1)), np.full((len(codes), 1), float(len(columns)))
    return np.hstack([total, -equal]), np.hstack([ones, equal[:count]])


def _flat(settings: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """(path, value) of every leaf."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _flat(value, f"{path}.{name}")
    elif isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from _flat(value, f"{path}.{i}")
    elif settings is not None:
        yield path, settings
