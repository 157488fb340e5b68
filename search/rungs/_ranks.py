"""Points by how good they are: fronts behind fronts, what a front beats, and orders that spread over a front.

A point has losses: of every objective less is better. Fronts and spreads are those of MO-ASHA (R. Schmucker et al. 2021,
arXiv 2106.12639).
"""

from __future__ import annotations

import bisect
import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def front_numbers(losses: Array) -> npt.NDArray[np.intp]:
    """The front of each row of `losses` (points, objectives): 0 where no row dominates it, 1 where only those do, and so on.

    Of equal rows the first dominates the others. O(n log n) for two objectives.
    """
    order = np.lexsort(losses.T[::-1])
    numbers = np.empty(len(losses), dtype=np.intp)
    if losses.shape[1] == 2:
        least: list[float] = []  # of each front's second losses, rising
        for row, second in zip(order.tolist(), losses[order, 1].tolist(), strict=True):
            front = bisect.bisect_right(least, second)
            least[front : front + 1] = [second]
            numbers[row] = front
        return numbers
    fronts: list[list[int]] = []
    for row in order.tolist():  # what dominates a row comes before it
        front = next((f for f, rows in enumerate(fronts) if not (losses[rows] <= losses[row]).all(axis=1).any()), len(fronts))
        if front == len(fronts):
            fronts.append([])
        fronts[front].append(row)
        numbers[row] = front
    return numbers


def beaten(losses: Array, front: Array) -> npt.NDArray[np.bool_]:
    """Which rows of `losses` (points, objectives) a row of `front` (others, objectives) is nowhere worse than.

    O((n + m) log m) for two objectives.
    """
    if not len(front):
        return np.zeros(len(losses), dtype=bool)
    if losses.shape[1] == 2:
        order = np.argsort(front[:, 0], kind="stable")
        least = np.minimum.accumulate(front[order, 1])  # of the second losses, up to each of the first
        behind = np.searchsorted(front[order, 0], losses[:, 0], side="right")
        return np.asarray((behind > 0) & (least[np.maximum(behind, 1) - 1] <= losses[:, 1]))
    is_better = np.ones((len(front), len(losses)), dtype=bool)
    for one, other in zip(front.T, losses.T, strict=True):
        is_better &= one[:, None] <= other
    return np.asarray(is_better.any(axis=0))


def epsilon_net(points: Array, *, named: int = 0, count: int | None = None) -> npt.NDArray[np.intp]:
    """Rows behind the first `named` of `points` (points, dimensions) in an order that spreads, `count` of them (default: all).

    It is ever the farthest from those named so far; the first by the first column where none was. Rows are counted from the
    first that is not named yet.
    """
    known, points = points[:named], points[named:]
    count = len(points) if count is None else min(count, len(points))
    distance = np.full(len(points), math.inf)
    if named and count:
        distance = np.linalg.norm(points[None] - known[:, None], axis=2).min(axis=0)
    order: list[int] = []
    for place in range(count):
        nearest = points[:, 0] if not place and not named else -distance
        order.append(int(np.argmin(nearest)))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
        distance[order] = -1.0
    return np.array(order, dtype=np.intp)
