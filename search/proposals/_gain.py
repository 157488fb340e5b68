"""How much hypervolume candidates are expected to add to a front, when all but their accuracy is known.

Accuracy is told by equally likely values; the gain is the mean over them. With one or two objectives gains are exact, with more
they are counted on points that are spread evenly over what no trial has conquered yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgesearch.search.proposals._accuracy import probability
from edgesearch.search.study import Constraints, Objective, non_dominated

__all__ = ["Goal", "Landscape", "likely_accuracies"]

Array = NDArray[np.float64]
#: Equally likely values that stand for an accuracy.
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 9) for i in range(9)])
#: Points that gains of three and more objectives are counted on; a power of two.
_SAMPLES = 2048
#: Members of such a front that count at most.
_FRONT = 512
#: The reference lies this far beyond the worst value seen (in spans) where no constraint says where it is.
_MARGIN = 0.1


def likely_accuracies(mean: Array, deviation: Array) -> Array:
    """Equally likely accuracies (candidates, values) for log-odds that are normal with these (candidates)."""
    return probability(mean[:, None] + deviation[:, None] * _QUANTILES)


@dataclass(frozen=True)
class Goal:
    """A study's objectives and constraints, as they make losses: less is better; ratios by their logarithms."""

    objectives: tuple[Objective, ...]
    constraints: Constraints

    def losses(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Of a network with these metrics; NaN for one that it lacks."""
        return tuple(self._loss(objective, metrics.get(objective.name, math.nan)) for objective in self.objectives)

    @property
    def accuracy(self) -> int | None:
        """Which objective is the accuracy."""
        return next((i for i, objective in enumerate(self.objectives) if objective.name == "accuracy"), None)

    def corner(self) -> tuple[float, ...]:
        """The losses at the constraints; NaN where an objective has none."""
        limits = self.constraints.model_dump(exclude_none=True)
        values = [limits.get(f"{'min' if o.maximise else 'max'}_{o.name}", math.nan) for o in self.objectives]
        return tuple(self._loss(objective, value) for objective, value in zip(self.objectives, values, strict=True))

    @staticmethod
    def _loss(objective: Objective, value: float) -> float:
        if not objective.is_ratio:
            return objective.loss(value)
        return objective.loss(math.log(value)) if value > 0 else math.inf if objective.maximise else -math.inf


class Landscape:
    """What a study's trials have conquered. `known` are losses (trials, objectives), `others` of what may come."""

    def __init__(self, goal: Goal, known: Sequence[Sequence[float]], others: Sequence[Sequence[float]], *, seed: int) -> None:
        self._goal = goal
        points = np.array(known, dtype=np.float64).reshape(-1, len(goal.objectives))
        everything = np.concatenate([points, np.array(others, dtype=np.float64).reshape(-1, points.shape[1])])
        corner = np.array(goal.corner())
        finite = np.where(np.isfinite(everything), everything, np.nan)
        worst, best = np.nanmax(finite, axis=0, initial=-np.inf), np.nanmin(finite, axis=0, initial=np.inf)
        span = np.where(worst > best, worst - best, 1.0)
        self.reference = np.where(np.isfinite(corner), corner, worst + _MARGIN * span)
        inside = points[(points < self.reference).all(axis=1)]
        self._front = inside[non_dominated(inside)] if len(inside) else inside
        self._samples = self._spread(best, seed) if points.shape[1] > 2 else np.zeros((0, points.shape[1]))

    def gains(self, losses: Array) -> Array:
        """By how much each point (points, objectives) alone raises the hypervolume (points); NaN counts nothing."""
        clean = np.where(np.isfinite(losses), losses, np.inf)
        if losses.shape[1] == 1:
            best = float(self._front.min(initial=self.reference[0]))
            return np.asarray(np.maximum(best - clean[:, 0], 0.0))
        if losses.shape[1] == 2:
            return self._gains_in_plane(clean)
        return self._counted(clean, clean[:, :1], 0)[:, 0]

    def expected(self, losses: Array, accuracies: Array) -> Array:
        """The mean gain (candidates) over equally likely accuracies (candidates, values).

        `losses` (candidates, objectives) has anything where the accuracy is an objective.
        """
        count, values = accuracies.shape
        if losses.shape[1] > 2 and self._goal.accuracy is not None:
            gains = self._counted(losses, -accuracies, self._goal.accuracy)
        else:
            cases = np.repeat(losses[:, None, :], values, axis=1)
            if self._goal.accuracy is not None:
                cases[:, :, self._goal.accuracy] = -accuracies
            gains = self.gains(cases.reshape(count * values, -1)).reshape(count, values)
        least = self._goal.constraints.min_accuracy
        return np.asarray((gains if least is None else np.where(accuracies >= least, gains, 0.0)).mean(axis=1))

    def _counted(self, losses: Array, values: Array, at: int) -> Array:
        """The share of the samples that each point dominates with each of `values` (points, values) as its loss number `at`."""
        if not len(self._samples):
            return np.zeros(values.shape)
        others = np.ones((len(losses), len(self._samples)), dtype=bool)
        for objective in range(losses.shape[1]):
            if objective != at:  # what is not a number dominates nothing
                others &= losses[:, objective, None] <= self._samples[None, :, objective]
        columns = [(others & (value[:, None] <= self._samples[None, :, at])).mean(axis=1) for value in values.T]
        return np.stack(columns, axis=1)

    def _gains_in_plane(self, losses: Array) -> Array:
        """The area below the stairs of the front, right of and above each point."""
        ends = np.concatenate([[-np.inf], self._front[:, 0], [self.reference[0]]])
        ceilings = np.concatenate([[self.reference[1]], self._front[:, 1]])
        widths = np.clip(ends[None, 1:] - np.maximum(ends[None, :-1], losses[:, :1]), 0.0, None)
        heights = np.clip(ceilings[None, :] - losses[:, 1:], 0.0, None)
        return np.asarray((widths * heights).sum(axis=1))

    def _spread(self, best: Array, seed: int) -> Array:
        """Points of the box from the best values to the reference that the front does not dominate."""
        from scipy.stats import qmc  # takes half a second, and few studies have three objectives

        low = np.minimum(best, self.reference)
        samples = low + (self.reference - low) * qmc.Sobol(len(low), seed=seed).random(_SAMPLES)
        front = self._front[np.linspace(0, len(self._front) - 1, min(len(self._front), _FRONT)).round().astype(int)]
        free = np.ones(len(samples), dtype=bool)
        for member in front:
            free &= ~(member <= samples).all(axis=1)
        return np.asarray(samples[free])
