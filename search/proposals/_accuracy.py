"""What accuracy a candidate is expected to have, and how sure that is: a Gaussian process on a study's finished trials.

Distances are those of `_coordinates.py`, each group of coordinates with a length scale of its own. C. E. Rasmussen and
C. Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgesearch.search.proposals._coordinates import GROUPS, Axes, Rows

__all__ = ["AccuracyModel", "logit", "probability"]

Array = NDArray[np.float64]
#: Length scales that are tried for each group; the last leaves the group out.
_LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
#: Variances of the noise that are tried, as shares of the signal's.
_NOISES = (1e-3, 1e-2, 3e-2, 0.1, 0.3)
_NOISE_LAST = len(GROUPS)
#: Length scales are chosen anew when there are so many times as many trials.
_GROWTH = 1.25
#: Trials that a prediction rests on at most: half of them the latest.
_MOST = 256
#: Accuracies are kept this far from 0 and 1, where their log-odds end.
_EDGE = 0.004


@dataclass(frozen=True)
class _Scales:
    """Length scales of the groups and the share of the noise."""

    lengths: tuple[float, ...] = (1.0,) * len(GROUPS)
    noise: float = 3e-2


class AccuracyModel:
    """Learns from trials; what it predicts depends on them and their numbers, not on the order in which they are given.

    `axes` are those of all rows that it is given.
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._known: dict[int, tuple[Rows, float]] = {}  # by trial: its row, and the accuracy that came of it
        self._scales: tuple[list[int], _Scales] = ([], _Scales())  # trials that they were chosen for

    def __len__(self) -> int:
        return len(self._known)

    def add(self, number: int, row: Rows, accuracy: float) -> None:
        """Learn from a trial."""
        self._known[number] = row, accuracy

    def predict(self, points: Rows) -> tuple[Array, Array]:
        """Mean and standard deviation (points) of the log-odds of the accuracy. Raises ValueError before the second trial."""
        if len(self._known) < 2:
            raise ValueError(f"{len(self._known)} trials are known; a prediction needs at least 2")
        numbers = sorted(self._known)
        known, accuracies = self._of(_chosen(numbers))
        scales, count = self._scaled(numbers), len(known)
        covariance = _matern(self._axes.weighted_squares(known, points, _weights(scales.lengths)))
        values = logit(accuracies)
        centre, spread = float(values.mean()), max(float(values.std()), 0.05)
        values = (values - centre) / spread
        factor, variance = _fit(covariance[:count], values, scales.noise)
        across = covariance[count:]  # (points, known)
        mean = across @ _solved(factor, values)
        explained = torch.linalg.solve_triangular(factor, torch.from_numpy(across.T), upper=False).numpy()
        left = np.maximum(1.0 - np.einsum("ij,ij->j", explained, explained), 1e-6) * variance
        return centre + spread * mean, spread * np.sqrt(left)

    def _of(self, numbers: Sequence[int]) -> tuple[Rows, Array]:
        """Rows and accuracies of these trials."""
        known = [self._known[number] for number in numbers]
        return self._axes.join([row for row, _ in known]), np.array([accuracy for _, accuracy in known])

    def _scaled(self, numbers: list[int]) -> _Scales:
        """The scales for what is known: those of the last milestone, so that a study that goes on finds the same."""
        milestone = 4
        while math.ceil(milestone * _GROWTH) <= len(numbers):
            milestone = math.ceil(milestone * _GROWTH)
        chosen = _chosen(numbers[:milestone])
        if milestone <= len(numbers) and self._scales[0] != chosen:
            known, accuracies = self._of(chosen)
            nothing = Rows(known.numbers[:0], known.names[:0])
            self._scales = chosen, _most_likely(self._axes.squares(known, nothing), accuracies)
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


def _weights(lengths: Sequence[float]) -> list[float]:
    """By which squared distances of the groups are multiplied."""
    return [5.0 / length**2 for length in lengths]


def _covariance(squares: Sequence[Array], lengths: Sequence[float]) -> Array:
    """Matern's, with 5/2, from squared distances by group."""
    weighted = [weight * group for group, weight in zip(squares, _weights(lengths), strict=True)]
    return _matern(np.asarray(sum(weighted)))


def _matern(squares: Array) -> Array:
    """Matern's covariance, with 5/2, from the weighted sum of squared distances."""
    r = np.sqrt(squares)
    return np.asarray((1.0 + r + squares / 3.0) * np.exp(-r))


def _fit(covariance: Array, values: Array, noise: float) -> tuple[torch.Tensor, float]:
    """The Cholesky factor of the covariance with noise, and the signal's variance that makes the values most likely.

    By torch's linear algebra, which is there already: scipy's would take the driver some 20 MB more.
    """
    factor = torch.linalg.cholesky(torch.from_numpy(covariance + noise * np.eye(len(values))))
    return factor, float(values @ _solved(factor, values)) / len(values)


def _solved(factor: torch.Tensor, values: Array) -> Array:
    """The covariance's inverse, of which `factor` is the Cholesky factor, times the values."""
    return np.asarray(torch.cholesky_solve(torch.from_numpy(values)[:, None], factor)[:, 0].numpy())


def _most_likely(squares: Sequence[Array], accuracies: Array) -> _Scales:
    """The scales of a grid under which the accuracies are most likely, found one after the other, twice round."""
    values = logit(accuracies)
    values = (values - values.mean()) / max(float(values.std()), 0.05)
    best, likelihood = _Scales(), -math.inf
    for at in 2 * (*range(len(GROUPS)), _NOISE_LAST):
        for scales in _along(best, at):
            factor, variance = _fit(_covariance(squares, scales.lengths), values, scales.noise)
            found = -0.5 * len(values) * math.log(max(variance, 1e-9)) - float(factor.diagonal().log().sum())
            if found > likelihood + 1e-9:
                best, likelihood = scales, found
    return best


def _along(scales: _Scales, at: int) -> Iterable[_Scales]:
    if at == _NOISE_LAST:
        return [_Scales(scales.lengths, noise) for noise in _NOISES]
    return [_Scales((*scales.lengths[:at], length, *scales.lengths[at + 1 :]), scales.noise) for length in _LENGTHS]
