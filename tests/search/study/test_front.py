from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from _studies import make_study, plain_record
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesearch.search.study._front import choose, knee, nearest_misses, non_dominated, pareto_front
from edgesearch.search.study._record import Record, StudyView, read_study

#: Few distinct values, so that ties are common; NaN and infinity among them.
_COARSE = st.one_of(st.integers(0, 6).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))


def _points(objectives: int) -> st.SearchStrategy[NDArray[np.float64]]:
    rows = st.lists(st.tuples(*[_COARSE] * objectives), max_size=40)
    return rows.map(lambda points: np.array(points, dtype=float).reshape(-1, objectives))


def _slow_front(losses: NDArray[np.float64]) -> list[int]:
    """Every row against every other."""
    kept = []
    for i, row in enumerate(losses):
        dominated = any((other <= row).all() and (other < row).any() for other in losses if np.isfinite(other).all())
        repeated = any((other == row).all() for other in losses[:i])
        if np.isfinite(row).all() and not dominated and not repeated:
            kept.append(i)
    return kept


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4).flatmap(_points))
def test_the_front_is_that_of_the_slow_reference(losses: NDArray[np.float64]) -> None:
    assert sorted(non_dominated(losses)) == _slow_front(losses)


def test_two_objectives_scale_to_ten_thousand_points_all_on_the_front() -> None:
    x = np.random.default_rng(0).permutation(10_000).astype(float)
    front = non_dominated(np.stack([x, -x], axis=1))
    assert x[front].tolist() == list(range(10_000))


def _view(records: Sequence[Record], **more: object) -> StudyView:
    return StudyView("s", records[0].objectives, {}, tuple(records), **more)  # type: ignore[arg-type]


def test_the_front_takes_feasible_deployable_complete_trials_only() -> None:
    records = [
        plain_record(0, (0.9, 100.0)),
        plain_record(1, (0.99, 200.0), violations={"max_size_bytes": 5.0}),
        plain_record(2, (0.98, 150.0), deployable=False),
        plain_record(3, (math.nan, 900.0)),
        Record(4, "FAIL", plain_record(0, (0.0, 0.0)).objectives),
        plain_record(5, (0.8, 300.0)),
    ]
    assert [r.number for r in pareto_front(_view(records))] == [0, 5]
    assert [r.number for r in pareto_front(_view(records), feasible_only=False)] == [1, 5]
    assert [r.number for r in pareto_front(_view(records), deployable_only=False)] == [2, 5]
    assert [r.number for r in pareto_front(_view(records[3:5]))] == []


def test_exact_ties_are_kept_once_under_the_lowest_number() -> None:
    records = [plain_record(7, (0.9, 100.0)), plain_record(2, (0.9, 100.0)), plain_record(5, (0.5, 200.0))]
    assert [r.number for r in pareto_front(_view(records))] == [2, 5]


def test_directions_are_respected() -> None:
    names = ("accuracy", "latency_ms", "size_bytes")
    records = [plain_record(i, v, names) for i, v in enumerate([(0.9, 5, 10), (0.9, 4, 10), (0.8, 9, 1), (0.7, 9, 2)])]
    assert [r.number for r in pareto_front(_view(records))] == [1, 2]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0.1, 0.999), st.floats(1.0, 5000.0)), min_size=1, max_size=30))
def test_the_knee_is_farthest_from_the_line_between_the_ends(values: list[tuple[float, float]]) -> None:
    front = pareto_front(_view([plain_record(i, v) for i, v in enumerate(values)]))
    chosen = knee(front)
    assert chosen in front
    first, last = np.array([front[0].accuracy, math.log(front[0].fps)]), np.array([front[-1].accuracy, math.log(front[-1].fps)])
    span = np.abs(last - first)
    if len(front) < 2 or (span == 0).any():
        return

    def distance(record: Record) -> float:  # signed, from the line between the ends, in scaled coordinates
        (x0, y0), (x1, y1) = first / span, last / span
        x, y = np.array([record.accuracy, math.log(record.fps)]) / span
        return float(((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / math.hypot(x1 - x0, y1 - y0))

    assert distance(chosen) == pytest.approx(max(distance(r) for r in front), abs=1e-6)


def test_the_knee_weighs_speed_by_ratios() -> None:
    # On a linear scale of frames per second the third would be chosen; doubling is what counts.
    front = [plain_record(i, v) for i, v in enumerate([(0.95, 100.0), (0.94, 1000.0), (0.80, 8000.0), (0.70, 10_000.0)])]
    assert knee(front) is front[1]


def test_the_knee_of_none_one_and_two() -> None:
    front = [plain_record(0, (0.9, 1.0)), plain_record(1, (0.8, 2.0))]
    assert knee([]) is None
    assert knee(front[:1]) is front[0]
    assert knee(front) is front[0]


def test_the_knee_of_three_objectives_is_the_balanced_member() -> None:
    names = ("accuracy", "fps", "size_bytes")
    front = [plain_record(i, v, names) for i, v in enumerate([(0.9, 10, 900), (0.6, 1000, 900), (0.6, 10, 9), (0.85, 700, 20)])]
    assert knee(front) is front[3]


def test_choose_meets_demands() -> None:
    front = [plain_record(i, v) for i, v in enumerate([(0.95, 100.0), (0.92, 400.0), (0.90, 500.0), (0.70, 900.0)])]
    assert choose(front, min_accuracy=0.91) is front[1]
    assert choose(front, min_fps=450.0) is front[2]
    assert choose(front, min_accuracy=0.80, min_fps=150.0) is front[1]
    assert choose(front, min_accuracy=0.95) is front[0]
    assert choose(front, min_accuracy=0.99) is None
    assert choose(front, min_fps=901.0) is None
    assert choose(front) is knee(front)
    assert choose([]) is None


def test_nearest_misses_come_first_and_say_by_how_much() -> None:
    limits = {"min_accuracy": 0.9, "min_fps": 1000.0}
    records = [
        plain_record(0, (0.45, 1000.0), violations={"min_accuracy": 0.45}),
        plain_record(1, (0.9, 900.0), violations={"min_fps": 100.0}),
        plain_record(2, (0.81, 950.0), violations={"min_accuracy": 0.09, "min_fps": 50.0}),
        plain_record(3, (0.95, 2000.0)),
        plain_record(4, (0.9, 999.0), violations={"min_fps": 1.0}, deployable=False),
    ]
    misses = nearest_misses(records, limits)
    assert [miss.record.number for miss in misses] == [1, 2, 0]
    assert misses[1].amounts == {"min_accuracy": 0.09, "min_fps": 50.0}
    assert not any(miss.is_expected for miss in misses)
    assert len(nearest_misses(records, limits, limit=1)) == 1


def test_trials_that_were_stopped_early_miss_what_is_known_or_was_expected_of_them() -> None:
    limits = {"min_accuracy": 0.9, "min_fps": 1000.0}
    at_rung = {"accuracies": [0.5], "constraints": {"min_accuracy": 0.18, "min_fps": -50.0}}
    ruled_out = {"made_by": "k", "constraints": {"min_accuracy": 0.4, "min_fps": 100.0}}
    known: dict[str, Any] = {"objectives": plain_record(0, (0.0, 0.0)).objectives, "deployable": True}
    records = [
        Record(0, "PRUNED", stopped=at_rung, **known),
        Record(1, "PRUNED", stopped=ruled_out, violations={"min_fps": 100.0}, **known),
        Record(2, "PRUNED", stopped={"constraints": {"min_accuracy": -0.01}}, **known),
        Record(3, "RUNNING", stopped=at_rung, **known),  # it waits, and may yet keep them
        Record(4, "FAIL", **known),
    ]
    nearest, other = nearest_misses(records, limits)
    assert (nearest.record.number, nearest.amounts, nearest.is_expected) == (1, {"min_fps": 100.0}, False)
    assert (other.record.number, other.amounts, other.is_expected) == (0, {"min_accuracy": 0.18}, True)


def test_a_real_looking_study_has_a_front_without_dominated_members() -> None:
    view = read_study(make_study(200, constraints={"min_fps": 300.0}))
    front = pareto_front(view)
    assert len(front) >= 3
    assert [r.accuracy for r in front] == sorted((r.accuracy for r in front), reverse=True)
    assert [r.fps for r in front] == sorted(r.fps for r in front)
    assert all(r.fps >= 300.0 for r in front)
    for record in view.records:
        if record.is_feasible and record.deployable:
            assert any(f.accuracy >= record.accuracy and f.fps >= record.fps for f in front)
