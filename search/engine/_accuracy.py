"""What accuracy a candidate is expected to have, and how sure that is: a Gaussian process on a study's finished trials.

A candidate's settings, and what is known of it before training (its work, size and speed), are its coordinates. They form
groups, each with one length scale: the metrics, the student, its teaching, pruning, quantization. Numbers count by their
distance, names by whether they are equal, and a setting that only one of two candidates has by the largest distance. C. E.
Rasmussen and C. Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from edgesearch.spaces import Candidate

__all__ = ["AccuracyModel", "Known", "Point", "logit", "probability"]

Array = NDArray[np.float64]
#: Groups of coordinates, and the length scales that are tried for each; the last leaves the group out.
_GROUPS = ("metrics", "student", "distillation", "pruning", "quantization")
_LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
#: Variances of the noise that are tried, as shares of the signal's.
_NOISES = (1e-3, 1e-2, 3e-2, 0.1, 0.3)
_NOISE_LAST = len(_GROUPS)
#: Length scales are chosen anew when there are so many times as many trials.
_GROWTH = 1.25
#: Trials that a prediction rests on at most: half of them the latest.
_MOST = 256
#: Accuracies are kept this far from 0 and 1, where their log-odds end.
_EDGE = 0.004
#: Metrics that are coordinates, by their logarithms.
_METRICS = ("macs", "size_bytes", "fps", "latency_ms")


@dataclass(frozen=True)
class Point:
    """A candidate's coordinates: by group and name, numbers or names."""

    numbers: Mapping[tuple[str, str], float]
    names: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, candidate: Candidate, estimate: Mapping[str, Any]) -> Point:
        """Of a candidate, and its metrics before training."""
        numbers: dict[tuple[str, str], float] = {}
        names: dict[tuple[str, str], str] = {}
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
class Known:
    """A point with the accuracy that came of it."""

    point: Point
    accuracy: float


@dataclass(frozen=True)
class _Scales:
    """Length scales of the groups and the share of the noise."""

    lengths: tuple[float, ...] = (1.0,) * len(_GROUPS)
    noise: float = 3e-2


class AccuracyModel:
    """Learns from trials; what it predicts depends on them and their numbers, not on the order in which they are given."""

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}  # by trial
        self._scales: tuple[list[int], _Scales] = ([], _Scales())  # trials that they were chosen for

    def __len__(self) -> int:
        return len(self._known)

    def add(self, number: int, known: Known) -> None:
        """Learn from a trial."""
        self._known[number] = known

    def predict(self, points: Sequence[Point]) -> tuple[Array, Array]:
        """Mean and standard deviation (points) of the log-odds of the accuracy. Raises ValueError before the second trial."""
        if len(self._known) < 2:
            raise ValueError(f"{len(self._known)} trials are known; a prediction needs at least 2")
        numbers = sorted(self._known)
        known = [self._known[number] for number in _chosen(numbers)]
        distances = _Distances([k.point for k in known], points)
        values = logit(np.array([k.accuracy for k in known]))
        centre, spread = float(values.mean()), max(float(values.std()), 0.05)
        values = (values - centre) / spread
        scales = self._scaled(numbers)
        factor, variance = _fit(distances.among(scales.lengths), values, scales.noise)
        across = distances.across(scales.lengths)  # (points, known)
        mean = across @ cho_solve((factor, True), values)
        explained = solve_triangular(factor, across.T, lower=True)
        left = np.maximum(1.0 - (explained**2).sum(axis=0), 1e-6) * variance
        return centre + spread * mean, spread * np.sqrt(left)

    def _scaled(self, numbers: list[int]) -> _Scales:
        """The scales for what is known: those of the last milestone, so that a study that goes on finds the same."""
        milestone = 4
        while math.ceil(milestone * _GROWTH) <= len(numbers):
            milestone = math.ceil(milestone * _GROWTH)
        chosen = _chosen(numbers[:milestone])
        if milestone <= len(numbers) and self._scales[0] != chosen:
            known = [self._known[number] for number in chosen]
            self._scales = chosen, _most_likely([k.point for k in known], np.array([k.accuracy for k in known]))
        return self._scales[1]


def _chosen(numbers: list[int]) -> list[int]:
    """All trials, or the latest and an even choice of those before."""
    if len(numbers) <= _MOST:
        return numbers
    late = _MOST // 2
    early = np.linspace(0, len(numbers) - late - 1, _MOST - late).round().astype(int)
    return [numbers[i] for i in early] + numbers[len(numbers) - late :]


def logit(accuracy: Array) -> Array:
    """Log-odds of accuracies (0..1), which are kept from their ends."""
    inside = np.clip(accuracy, _EDGE, 1.0 - _EDGE)
    return np.asarray(np.log(inside / (1.0 - inside)))


def probability(log_odds: Array) -> Array:
    """The inverse of `logit`."""
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))


class _Distances:
    """Squared distances by group, from points to known ones and among these."""

    def __init__(self, known: Sequence[Point], points: Sequence[Point]) -> None:
        everything, count = [*known, *points], len(known)
        shape = (len(everything), count)
        self._count = count
        self._groups = [np.zeros(shape) for _ in _GROUPS]
        for group, name in sorted({key for point in everything for key in point.numbers}):
            column = np.array([point.numbers.get((group, name), np.nan) for point in everything])
            span = float(np.nanmax(column) - np.nanmin(column))
            missing = np.isnan(column)
            if span > 0 or missing.any():
                apart = (np.nan_to_num(column)[:, None] - np.nan_to_num(column)[None, :count]) / (span or 1.0)
                apart = np.where(missing[:, None] | missing[None, :count], missing[:, None] != missing[None, :count], apart)
                self._groups[_GROUPS.index(group)] += apart**2
        for group, name in sorted({key for point in everything for key in point.names}):
            values = [point.names.get((group, name), "") for point in everything]
            if len(set(values)) > 1:
                codes = np.unique(values, return_inverse=True)[1]
                self._groups[_GROUPS.index(group)] += codes[:, None] != codes[None, :count]

    def among(self, lengths: Sequence[float]) -> Array:
        """Covariances (known, known)."""
        return self._covariance(slice(self._count), lengths)

    def across(self, lengths: Sequence[float]) -> Array:
        """Covariances (points, known)."""
        return self._covariance(slice(self._count, None), lengths)

    def _covariance(self, rows: slice, lengths: Sequence[float]) -> Array:
        """Matern's, with 5/2."""
        squares = sum(group[rows] / length**2 for group, length in zip(self._groups, lengths, strict=True))
        r = np.sqrt(5.0 * np.asarray(squares))
        return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def _fit(covariance: Array, values: Array, noise: float) -> tuple[Array, float]:
    """The Cholesky factor of the covariance with noise, and the signal's variance that makes the values most likely."""
    factor: Array = cho_factor(covariance + noise * np.eye(len(values)), lower=True)[0]
    return np.tril(factor), float(values @ cho_solve((factor, True), values)) / len(values)


def _most_likely(points: Sequence[Point], accuracies: Array) -> _Scales:
    """The scales of a grid under which the accuracies are most likely, found one after the other, twice round."""
    distances = _Distances(points, [])
    values = logit(accuracies)
    values = (values - values.mean()) / max(float(values.std()), 0.05)
    best, likelihood = _Scales(), -math.inf
    for at in 2 * (*range(len(_GROUPS)), _NOISE_LAST):
        for scales in _along(best, at):
            factor, variance = _fit(distances.among(scales.lengths), values, scales.noise)
            found = -0.5 * len(values) * math.log(max(variance, 1e-9)) - float(np.log(np.diag(factor)).sum())
            if found > likelihood + 1e-9:
                best, likelihood = scales, found
    return best


def _along(scales: _Scales, at: int) -> Iterable[_Scales]:
    if at == _NOISE_LAST:
        return [_Scales(scales.lengths, noise) for noise in _NOISES]
    return [_Scales((*scales.lengths[:at], length, *scales.lengths[at + 1 :]), scales.noise) for length in _LENGTHS]


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
