"""The Pareto front of a study, and choosing from it.

All comparisons are on losses (`Record.losses`): every objective turned so that less is better. Distances are measured on the
scale on which people compare the objective: accuracy by differences, frames per second, latency, sizes and energy by ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesearch.search.study._record import Objective, Record, StudyView


def non_dominated(losses: NDArray[np.float64]) -> list[int]:
    """Rows of `losses` (points, objectives) that no other row dominates, sorted by the first column.

    A row dominates another when it is nowhere greater and somewhere less. Of equal rows the first is kept. Rows with NaN or
    infinities are never kept. O(n log n) for up to three objectives.
    """
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    order = finite[np.lexsort(losses[finite].T[::-1])] if finite.size else finite  # stable: equal rows stay in their order
    if losses.shape[1] <= 2:
        return _sweep(losses, order)
    if not order.size:
        return []
    import moocore  # compiled, and needed by few studies

    return [int(row) for row in order[moocore.is_nondominated(losses[order])]]


def _sweep(losses: NDArray[np.float64], order: NDArray[np.intp]) -> list[int]:
    kept: list[int] = []
    least = math.inf
    last = losses.shape[1] - 1
    for row, second in zip(order.tolist(), losses[order, last].tolist(), strict=True):
        if second < least:
            kept.append(row)
            least = second
        if last == 0:  # one objective: the best alone
            break
    return kept


def pareto_front(view: StudyView, *, feasible_only: bool = True, deployable_only: bool = True) -> list[Record]:
    """The trials that no other trial dominates, the best in the first objective first.

    Only complete trials whose values are finite. By default also only those that keep every constraint and that the DPU can
    run. Of trials with exactly equal values the one with the lowest number stands for all.
    """
    records = front_candidates(view, feasible_only=feasible_only, deployable_only=deployable_only)
    if not records:
        return []
    return [records[i] for i in non_dominated(loss_array(records))]


def front_candidates(view: StudyView, *, feasible_only: bool = True, deployable_only: bool = True) -> list[Record]:
    """The trials that may be on the front at all, by number."""
    return sorted(
        (
            record
            for record in view.records
            if record.is_complete and (record.deployable or not deployable_only) and not (feasible_only and record.violations)
        ),
        key=lambda record: record.number,
    )


def loss_array(records: Sequence[Record]) -> NDArray[np.float64]:
    """Losses (records, objectives)."""
    return np.array([record.losses for record in records], dtype=np.float64)


def scaled_losses(losses: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Losses (points, objectives) mapped to 0 (best there is) .. 1 (worst), ratio objectives by their logarithm.

    A column without spread becomes 0. Values that are not positive are compared by differences, having no logarithm.
    """
    columns = []
    for column, objective in zip(losses.T, objectives, strict=True):
        scaled = column
        magnitudes = np.abs(column)
        if objective.is_ratio and (column != 0).all() and (np.sign(column) == (-1 if objective.maximise else 1)).all():
            scaled = np.log(magnitudes) * (-1 if objective.maximise else 1)
        span = scaled.max() - scaled.min()
        columns.append((scaled - scaled.min()) / span if span > 0 else np.zeros_like(scaled))
    return np.stack(columns, axis=1)


def knee(front: Sequence[Record]) -> Record | None:
    """The member that gives most for what it costs; None for an empty front.

    It is the member farthest on the good side from the line between the front's two ends, after each objective was scaled to
    0..1 over the front: by its logarithm for frames per second, latency, sizes and energy, linearly for accuracy. With more
    than two objectives the line becomes the plane through the ends of the scales. A front that does not bulge has no such
    member; then it is the first.
    """
    if not front:
        return None
    scaled = scaled_losses(loss_array(front), front[0].objectives)
    # The line through (0, 1) and (1, 0) is x + y = 1; the distance from it falls with x + y. Rounding keeps ties ties.
    return front[int(np.argmin(scaled.sum(axis=1).round(12)))]


def choose(front: Iterable[Record], *, min_accuracy: float | None = None, min_fps: float | None = None) -> Record | None:
    """The member that suits a demand; None when no member meets it.

    With `min_accuracy` (0..1) alone: the fastest that is accurate enough. With `min_fps` (images per second), alone or with
    `min_accuracy`: the most accurate that is fast enough. With neither: the knee.
    """
    members = list(front)
    if min_accuracy is None and min_fps is None:
        return knee(members)
    fitting = [
        (record.accuracy, record.fps, record)
        for record in members
        if record.accuracy is not None
        and record.fps is not None
        and (min_accuracy is None or record.accuracy >= min_accuracy)
        and (min_fps is None or record.fps >= min_fps)
    ]
    if not fitting:
        return None
    if min_fps is None:
        return max(fitting, key=lambda member: (member[1], member[0], -member[2].number))[2]
    return max(fitting, key=lambda member: (member[0], member[1], -member[2].number))[2]


class Miss(NamedTuple):
    """A trial that breaks constraints, and by how much each: known, or expected of one that was stopped early."""

    record: Record
    amounts: dict[str, float]

    @property
    def is_expected(self) -> bool:
        """Whether the amounts were foretold when the trial was stopped."""
        return not self.record.violations


def nearest_misses(records: Iterable[Record], constraints: Mapping[str, float], *, limit: int | None = None) -> list[Miss]:
    """Deployable trials that break constraints, complete or stopped early, those that miss by least first.

    Misses are compared by their sum relative to the limits: 5 % too slow is as near as 5 % too large.
    """
    misses = [
        (sum(amount / (abs(constraints.get(name, 0.0)) or 1.0) for name, amount in amounts.items()), Miss(record, amounts))
        for record in records
        if record.deployable and (amounts := _missed(record))
    ]
    misses.sort(key=lambda miss: (miss[0], miss[1].record.number))
    return [miss for _, miss in misses[:limit]]


def _missed(record: Record) -> dict[str, float]:
    """By how much a trial that has ended misses each constraint that it breaks."""
    if record.is_complete or (record.state == "PRUNED" and record.violations):
        return dict(record.violations)
    foretold: Mapping[str, float] = record.stopped.get("constraints", {}) if record.state == "PRUNED" else {}
    return {name: amount for name, amount in foretold.items() if amount > 0}
