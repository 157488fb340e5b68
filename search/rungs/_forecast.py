"""From the accuracy of a rung to that of the finished candidate, as an interval.

Accuracies are compared by their logits, log(a / (1 - a)). A student's final one is a line of the rung's, offset + slope * x
with a slope that is never negative; the candidate's is the student's and what its pruning and quantization cost, a line of the
pruned share for each way to prune and quantize. Both are found by Bayes' rule (C. M. Bishop 2006, 3.3) with residuals in which
far outliers count less (Student's t; K. L. Lange et al. 1989): before anything is known the interval is as wide as trainings
differ between studies, and each finished training narrows it to what this one shows.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

#: Half width of a 90 % interval over the scale of Student's t with `_FREEDOM` degrees of freedom: its tails are as heavy as the
#: outliers that it forgives.
T90 = 2.132
#: Accuracies nearer to 0 or 1 count as so near: a few hundred images tell no more.
_NEAREST = 0.002
#: As many residuals as the guess of their scatter is worth.
_SCATTER_WEIGHT = 4.0
#: Of more pairs than this so many stand for all, evenly from the least to the greatest.
_ENOUGH = 256
#: Degrees of freedom of Student's t, and rounds of its weights.
_FREEDOM, _ROUNDS = 4.0, 4


@dataclass(frozen=True)
class Prior:
    """What is expected of a line before it is seen: means and standard deviations of its offset and slope, and its scatter."""

    offset: tuple[float, float]
    slope: tuple[float, float]
    scatter: float


def rung_prior(left: int) -> Prior:
    """Of the line from a rung to the end of the training, with so many rungs or ends to go."""
    return Prior(offset=(0.75 * left, 1.0 * left), slope=(0.7, 0.5), scatter=0.4)


#: Of what pruning and quantization cost, by the share that is pruned.
METHOD_PRIOR = Prior(offset=(0.0, 0.4), slope=(-0.5, 1.0), scatter=0.25)
#: Of what quantization alone costs.
QUANTIZED_PRIOR = Prior(offset=(0.0, 0.3), slope=(0.0, 1.0), scatter=0.15)
#: Of the logarithm of a pruned network's speed over what is expected of even pruning, by that share.
SCALE_PRIOR = Prior(offset=(0.0, 0.02), slope=(0.0, 0.15), scatter=0.05)
#: Of its size, which says little of its work: the last layers have most of the weights, the first ones most of the work.
SIZE_PRIOR = Prior(offset=(0.0, 0.05), slope=(0.0, 1.0), scatter=0.2)
#: Nothing is left to learn.
EXACT = Prior(offset=(0.0, 0.0), slope=(1.0, 0.0), scatter=0.0)


def scale_prior(name: str) -> Prior:
    """Of the logarithm of a pruned network's metric over what is expected of even pruning, by the share that is pruned."""
    return SIZE_PRIOR if name == "size_bytes" else SCALE_PRIOR


class Line(NamedTuple):
    """offset + slope * x, the covariance of both, and the standard deviation of one value around it."""

    offset: float
    slope: float
    var_offset: float
    covariance: float
    var_slope: float
    scatter: float


def fit(known: Sequence[tuple[float, float]], prior: Prior, *, least_slope: float = -math.inf) -> Line:
    """The line through rising (x, y) pairs, the prior's where there are none.

    Pairs that rise are summed in the same order, whichever trial ended first.
    """
    if len(known) > _ENOUGH:
        known = [known[place] for place in np.linspace(0, len(known) - 1, _ENOUGH).round().astype(int)]
    means = np.array([prior.offset[0], prior.slope[0]])
    variances = np.array([prior.offset[1], prior.slope[1]]) ** 2
    if not known or not variances.any():
        return Line(prior.offset[0], prior.slope[0], prior.offset[1] ** 2, 0.0, prior.slope[1] ** 2, prior.scatter)
    x, y = np.array(known).T
    rows = np.stack([np.ones_like(x), x], axis=1)
    scatter, weights = prior.scatter, np.ones_like(x)
    for _ in range(_ROUNDS):
        precision = rows.T * weights / scatter**2
        covariance = np.linalg.inv(np.diag(1 / variances) + precision @ rows)
        offset, slope = (covariance @ (means / variances + precision @ y)).tolist()
        residuals = y - offset - slope * x
        weights = (_FREEDOM + 1) / (_FREEDOM + (residuals / scatter) ** 2)
        spread = _SCATTER_WEIGHT * prior.scatter**2 + float(weights @ residuals**2)
        scatter = math.sqrt(spread / (_SCATTER_WEIGHT + len(known)))
    if slope < least_slope:  # through the middle of what was seen
        offset, slope = offset + (slope - least_slope) * float(x.mean()), least_slope
    (a, b), (_, d) = covariance.tolist()
    return Line(offset, slope, a, b, d, scatter)


@dataclass
class Forecast:
    """Learns from finished trainings. `rungs`: how many a training has before its end.

    Methods, ways to prune and quantize, have numbers, so that candidates are foretold by columns.
    """

    rungs: int
    _students: dict[str, tuple[tuple[float, ...], float]] = field(default_factory=dict)
    _pairs: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # by rung: logits there and in the end, rising
    _numbers: dict[tuple[str, bool], int] = field(default_factory=dict)  # of methods, and whether they prune
    _methods: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # rising, as all lists of pairs
    _scales: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)  # by metric and method
    _lines: dict[tuple[str, int], Line] = field(default_factory=dict)  # fitted since the last lesson
    _tables: dict[str, Array] = field(default_factory=dict)  # lines (rungs or methods, 6), put together since then

    # --- lessons

    def number(self, method: str, *, pruned: bool) -> int:
        """Of a method, and whether it prunes."""
        return self._numbers.setdefault((method, pruned), len(self._numbers))

    def learn_student(self, student: str, accuracies: Sequence[float], final: float) -> None:
        """A training ended: its accuracies by rung, and the last. A student is learnt from once."""
        lesson = tuple(accuracies), final
        before = self._students.get(student)
        if before == lesson:
            return
        self._students[student] = lesson
        for rung, pair in enumerate(_rung_pairs(before)):
            self._pairs[rung].remove(pair)
        for rung, pair in enumerate(_rung_pairs(lesson)):
            bisect.insort(self._pairs.setdefault(rung, []), pair)
        for rung in range(self.rungs):
            self._forget("rungs", rung)

    def learn_method(self, method: int, ratio: float, student: float, final: float) -> None:
        """A candidate ended: accuracy of its trained student, and its own."""
        bisect.insort(self._methods.setdefault(method, []), (ratio, _logit(final) - _logit(student)))
        self._forget("methods", method)

    def learn_scale(self, method: int, name: str, ratio: float, expected: float, final: float) -> None:
        """A metric that was expected, and what it came to; both positive."""
        bisect.insort(self._scales.setdefault((name, method), []), (ratio, math.log(final / expected)))
        self._forget(f"scales of {name}", method)

    def _forget(self, table: str, line: int) -> None:
        self._lines.pop((table, line), None)
        self._tables.pop(table, None)

    # --- what is foretold

    def moments(self, rungs: Places, accuracies: Array, methods: Places, ratios: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the logit of each finished candidate's accuracy (candidates).

        rungs, accuracies: where each is, the number of rungs after its student's training. methods, ratios: of what follows.
        """
        mean, variance = _along(self._rung_lines()[rungs], _logits(accuracies))
        lost, doubt = _along(self._method_lines()[methods], ratios)
        return mean + lost, np.sqrt(variance + doubt)

    def scales(self, name: str, methods: Places, ratios: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of a metric over what is expected of it before training (candidates)."""
        mean, variance = _along(self._scale_lines(name)[methods], ratios)
        return mean, np.sqrt(variance)

    def _rung_lines(self) -> Array:
        if "rungs" not in self._tables:
            lines = []
            for rung in range(self.rungs + 1):
                prior = rung_prior(self.rungs - rung) if rung < self.rungs else EXACT
                lines.append(self._line(("rungs", rung), self._pairs.get(rung, ()), prior, least_slope=0.0))
            self._tables["rungs"] = np.array(lines)
        return self._tables["rungs"]

    def _method_lines(self) -> Array:
        if len(self._tables.get("methods", ())) < len(self._numbers):
            priors = [METHOD_PRIOR if pruned else QUANTIZED_PRIOR for _, pruned in self._numbers]
            lines = [
                self._line(("methods", method), self._methods.get(method, ()), prior) for method, prior in enumerate(priors)
            ]
            self._tables["methods"] = np.array(lines)
        return self._tables["methods"]

    def _scale_lines(self, name: str) -> Array:
        table = f"scales of {name}"
        if len(self._tables.get(table, ())) < len(self._numbers):
            lines = [Line(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)] * len(self._numbers)  # what is not pruned is as fast as is expected
            for method, (_, pruned) in enumerate(self._numbers):
                if pruned:
                    lines[method] = self._line((table, method), self._scales.get((name, method), ()), scale_prior(name))
            self._tables[table] = np.array(lines)
        return self._tables[table]

    def _line(
        self, key: tuple[str, int], pairs: Sequence[tuple[float, float]], prior: Prior, *, least_slope: float = -math.inf
    ) -> Line:
        if key not in self._lines:
            self._lines[key] = fit(pairs, prior, least_slope=least_slope)
        return self._lines[key]


def _along(lines: Array, x: Array) -> tuple[Array, Array]:
    """Mean and variance of a value at each x of its own line; lines (values, 6) as `Line`."""
    offset, slope, var_offset, covariance, var_slope, scatter = lines.T
    return offset + slope * x, var_offset + 2 * covariance * x + var_slope * x**2 + scatter**2


def _rung_pairs(lesson: tuple[tuple[float, ...], float] | None) -> list[tuple[float, float]]:
    return [] if lesson is None else [(_logit(accuracy), _logit(lesson[1])) for accuracy in lesson[0]]


def _logit(share: float) -> float:
    share = min(max(share, _NEAREST), 1 - _NEAREST)
    return math.log(share / (1 - share))


def _logits(shares: Array) -> Array:
    inside = np.clip(shares, _NEAREST, 1 - _NEAREST)
    return np.asarray(np.log(inside / (1 - inside)))


def shares(logits: Array) -> Array:
    """Accuracies, 0..1, of their logits."""
    return np.asarray(1 / (1 + np.exp(-logits)))
