"""The Pareto front: who is on it, its knee, its hypervolume over time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence

from edgesearch.search._record import Record, StudyView

Point = tuple[float, ...]


def losses(record: Record, objectives: Mapping[str, str]) -> Point | None:
    """The objectives with their signs turned so that less is better; None when one is missing or not a number."""
    values = []
    for name, direction in objectives.items():
        value = record.metrics.get(name)
        if value is None or math.isnan(value):
            return None
        values.append(-value if direction == "maximize" else value)
    return tuple(values)


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats (less is better), in the order of their first coordinate.

    Of equal points the first given counts. O(n log n) for one or two coordinates; n times the front's size for more.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    kept: list[int] = []
    if points and len(points[0]) <= 2:
        best = math.inf
        for i in order:
            last = points[i][-1]
            if last < best:
                kept.append(i)
                best = last
        return kept[:1] if len(points[0]) == 1 else kept
    for i in order:  # whoever dominates a point comes before it in this order
        if not any(all(a <= b for a, b in zip(points[j], points[i], strict=True)) for j in kept):
            kept.append(i)
    return kept


def pareto_front(view: StudyView) -> list[Record]:
    """The feasible and deployable trials that no other such trial beats in every objective, most accurate first."""
    usable = [(r, losses(r, view.objectives)) for r in view.records if r.feasible and r.deployable]
    known = [(record, point) for record, point in usable if point is not None]
    return [known[i][0] for i in non_dominated([point for _, point in known])]


def knee(front: Sequence[Record], objectives: Mapping[str, str]) -> Record | None:
    """The member farthest above the line between the front's ends; None for an empty front.

    Over the first two objectives, scaled to 0..1. Speed, time and size are taken in logarithms: twice as fast is as much of a
    gain for a slow network as for a fast one. A front of two is answered with its first, the more accurate.
    """
    if not front:
        return None
    names = list(objectives)[:2]
    if len(names) < 2:
        return front[0]
    columns = []
    for name in names:
        sign = 1.0 if objectives[name] == "maximize" else -1.0
        values = [record.metrics[name] for record in front]
        scaled = values if name == "accuracy" or min(values) <= 0 else [math.log(value) for value in values]
        low, high = min(scaled), max(scaled)
        unit = [(value - low) / (high - low) if high > low else 0.0 for value in scaled]
        columns.append([value if sign > 0 else 1.0 - value for value in unit])
    heights = [a + b for a, b in zip(*columns, strict=True)]  # distance from the anti-diagonal, up to a constant factor
    return front[max(range(len(front)), key=lambda i: (heights[i], -i))]


def choose(front: Iterable[Record], *, min_accuracy: float | None = None, min_fps: float | None = None) -> Record | None:
    """The fastest member with at least `min_accuracy`; without that limit the most accurate with at least `min_fps`.

    None when no member keeps the limits.
    """
    kept = [
        record
        for record in front
        if record.metrics["accuracy"] >= (min_accuracy or 0.0) and record.metrics["fps"] >= (min_fps or 0.0)
    ]
    if not kept:
        return None
    by = "fps" if min_accuracy is not None else "accuracy"
    return max(kept, key=lambda record: record.metrics[by])


def nearest_misses(view: StudyView, count: int = 5) -> list[Record]:
    """The complete, infeasible trials that break their constraints by the smallest shares of the limits, nearest first."""

    def share(record: Record) -> float:
        return sum(amount / max(abs(view.constraints.get(name, 1.0)), 1e-12) for name, amount in record.violations.items())

    return sorted((r for r in view.records if r.complete and r.violations), key=share)[:count]


class Hypervolume:
    """The area that a growing set of points (less is better) dominates below a reference point; two coordinates.

    Adding a point costs O(log n) and the points that it replaces.
    """

    def __init__(self, reference: tuple[float, float]) -> None:
        self._reference = reference
        self._front: list[tuple[float, float]] = []  # rising in x, falling in y
        self.value = 0.0

    def add(self, point: tuple[float, float]) -> None:
        """Take a point into account."""
        x, y = point
        if x >= self._reference[0] or y >= self._reference[1]:
            return
        front = self._front
        at = bisect.bisect_left(front, point)
        if (at and front[at - 1][1] <= y) or (at < len(front) and front[at] == point):
            return
        end = at
        ceiling = front[at - 1][1] if at else self._reference[1]
        left, height = x, ceiling
        while end < len(front) and front[end][1] >= y:
            self.value += (front[end][0] - left) * (height - y)
            left, height = front[end][0], front[end][1]
            end += 1
        right = front[end][0] if end < len(front) else self._reference[0]
        self.value += (right - left) * (height - y)
        front[at:end] = [point]


def hypervolume_history(view: StudyView) -> list[tuple[int, float]]:
    """(trial number, share of the box spanned by all results that is dominated so far), for the first two objectives.

    The box reaches from the worst to the best value of each objective; fps, latency and size are taken in logarithms.
    """
    names = list(view.objectives)[:2]
    usable = [r for r in view.records if r.feasible and r.deployable and losses(r, view.objectives) is not None]
    if len(names) < 2 or not usable:
        return []
    columns = []
    for name in names:
        values = [record.metrics[name] for record in usable]
        scaled = values if name == "accuracy" or min(values) <= 0 else [math.log(value) for value in values]
        low, high = min(scaled), max(scaled)
        unit = [(value - low) / (high - low) if high > low else 1.0 for value in scaled]
        columns.append([1.0 - value if view.objectives[name] == "maximize" else value for value in unit])
    area = Hypervolume((1.0 + 1e-9, 1.0 + 1e-9))
    history = []
    for record, x, y in sorted(zip(usable, *columns, strict=True), key=lambda entry: entry[0].number):
        area.add((x, y))
        history.append((record.number, area.value))
    return history
