"""Hypervolume: how much of the space of objectives a front has conquered, and how that grew.

Points are losses (less is better); the volume is that of all points which are dominated by one of them and are better than the
reference. E. Zitzler and L. Thiele, "Multiobjective optimization using evolutionary algorithms", PPSN 1998. With more than two
objectives it is computed by moocore, whose algorithms take O(n log n) for three and O(n^2) for four.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgesearch.search.study._front import front_candidates, loss_array, scaled_losses
from edgesearch.search.study._record import Record, StudyView

#: The reference lies this far beyond the worst value seen (in spans), so that the ends of a front count too.
_MARGIN = 0.1


class Staircase:
    """The area that points in a plane dominate, one point at a time.

    `add` takes O(log n) comparisons and amortised O(1) removals: a point enters the list and leaves it at most once.
    """

    def __init__(self, reference: tuple[float, float]) -> None:
        self._reference = reference
        self._x: list[float] = []  # rising
        self._y: list[float] = []  # falling
        self.area = 0.0

    def add(self, x: float, y: float) -> float:
        """Add a point; returns by how much the area grew."""
        end_x, end_y = self._reference
        if not (x < end_x and y < end_y):
            return 0.0
        at = bisect.bisect_left(self._x, x)
        if (at > 0 and self._y[at - 1] <= y) or (at < len(self._x) and self._x[at] == x and self._y[at] <= y):
            return 0.0
        # Walk right over the steps that the new point covers; each is gained from the old ceiling down to y.
        gained, left = 0.0, x
        ceiling = self._y[at - 1] if at > 0 else end_y
        stop = at
        while stop < len(self._x) and self._y[stop] >= y:
            gained += (self._x[stop] - left) * (ceiling - y)
            left, ceiling = self._x[stop], self._y[stop]
            stop += 1
        right = self._x[stop] if stop < len(self._x) else end_x
        gained += (right - left) * (ceiling - y)
        self._x[at:stop], self._y[at:stop] = [x], [y]
        self.area += gained
        return gained


def volume(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Hypervolume of points (points, objectives) below `reference` (objectives); others, and NaN, count nothing."""
    inside = losses[(losses < reference).all(axis=1)]
    if inside.size == 0:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - inside.min())
    if len(reference) == 2:
        stairs = Staircase((float(reference[0]), float(reference[1])))
        for x, y in inside.tolist():
            stairs.add(x, y)
        return stairs.area
    import moocore  # compiled, and needed by few studies

    return float(moocore.hypervolume(inside, ref=reference))


def volume_history(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hypervolume after each point (points): one pass, adding to each what its point alone conquers."""
    if len(reference) == 2:
        stairs = Staircase((float(reference[0]), float(reference[1])))
        return np.cumsum([stairs.add(x, y) for x, y in losses.tolist()])
    gains = np.zeros(len(losses))
    front = np.empty((len(reference), 0))  # a row for each objective: comparisons run along whole rows
    for i, point in enumerate(losses):
        column = point[:, None]
        if not (point < reference).all() or _in_all(front <= column).any():
            continue
        gains[i] = np.prod(reference - point) - volume(np.maximum(front, column).T, reference)
        front = np.hstack([front[:, ~_in_all(front >= column)], column])
    return np.cumsum(gains)


def _in_all(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Columns that are true in every row; there are few rows, and NumPy's own reduction of them is slow."""
    found: NDArray[np.bool_] = rows[0]
    for row in rows[1:]:
        found = found & row
    return found


def hypervolume(front: Sequence[Record], reference: Sequence[float]) -> float:
    """Hypervolume of trials up to `reference`, one value per objective in its own unit (0 accuracy, 0 FPS, 100 ms)."""
    if not front:
        return 0.0
    objectives = front[0].objectives
    losses = np.array([objective.loss(value) for objective, value in zip(objectives, reference, strict=True)])
    return volume(loss_array(front), losses)


def progress(view: StudyView) -> list[tuple[int, float]]:
    """(trial number, share of the box conquered) for every trial that may be on the front, in their order.

    The box reaches from the best value seen in each objective to the worst plus a tenth, on the scales of `scaled_losses`:
    1 would be one network that is the best in everything. The last share is comparable between trials of one study only.
    """
    records = front_candidates(view)
    if not records:
        return []
    reference = np.full(len(view.objectives), 1.0 + _MARGIN)
    shares = volume_history(scaled_losses(loss_array(records), view.objectives), reference) / np.prod(reference)
    return [(record.number, float(share)) for record, share in zip(records, shares, strict=True)]
