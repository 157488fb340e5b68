from __future__ import annotations

import itertools

import numpy as np
import pytest
from _studies import make_study, plain_record
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesearch.search.study._front import pareto_front
from edgesearch.search.study._hypervolume import hypervolume, progress, volume, volume_history
from edgesearch.search.study._record import read_study

_SIDE = 5  # points on an integer grid; the reference is (5, 5, ..)


def _points(objectives: int) -> st.SearchStrategy[NDArray[np.float64]]:
    rows = st.lists(st.tuples(*[st.integers(0, _SIDE + 1)] * objectives), max_size=15)
    return rows.map(lambda points: np.array(points, dtype=float).reshape(-1, objectives))


def _slow_volume(losses: NDArray[np.float64]) -> float:
    """The cells of the grid that some point dominates, counted one by one."""
    cells = itertools.product(range(_SIDE), repeat=losses.shape[1])
    return float(sum(any((point <= np.array(cell)).all() for point in losses) for cell in cells))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4).flatmap(_points))
def test_volume_counts_the_dominated_cells(losses: NDArray[np.float64]) -> None:
    assert volume(losses, np.full(losses.shape[1], float(_SIDE))) == pytest.approx(_slow_volume(losses))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4).flatmap(_points))
def test_the_history_is_the_volume_of_every_prefix(losses: NDArray[np.float64]) -> None:
    reference = np.full(losses.shape[1], float(_SIDE))
    expected = [volume(losses[: i + 1], reference) for i in range(len(losses))]
    np.testing.assert_allclose(volume_history(losses, reference), expected, atol=1e-9)


def test_volume_in_the_objectives_own_units() -> None:
    front = [plain_record(0, (0.9, 100.0)), plain_record(1, (0.5, 300.0))]
    assert hypervolume(front, (0.0, 0.0)) == pytest.approx(0.9 * 100 + 0.5 * 200)
    slow = [plain_record(0, (0.9, 20.0), ("accuracy", "latency_ms"))]
    assert hypervolume(slow, (0.5, 50.0)) == pytest.approx(0.4 * 30)
    assert hypervolume(slow, (0.95, 50.0)) == 0.0
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_nan_counts_nothing() -> None:
    assert volume(np.array([[np.nan, 1.0], [1.0, 1.0]]), np.array([2.0, 2.0])) == 1.0


@pytest.mark.parametrize("objectives", [("accuracy", "fps"), ("accuracy", "fps", "size_bytes"), ("accuracy",)])
def test_progress_rises_to_the_share_of_the_front_alone(objectives: tuple[str, ...]) -> None:
    view = read_study(make_study(150, objectives=objectives, constraints={"min_fps": 300.0}))
    shares = progress(view)
    counted = [r.number for r in view.records if r.is_feasible and r.deployable]
    assert [number for number, _ in shares] == counted
    values = [share for _, share in shares]
    assert values == sorted(values)
    assert 0 < values[0] <= values[-1] <= 1
    last_gain = max(i for i, v in enumerate(values) if i == 0 or v > values[i - 1])
    assert shares[last_gain][0] in {r.number for r in pareto_front(view)}


def test_progress_of_nothing_and_of_one() -> None:
    assert progress(read_study(make_study(0))) == []
    one = progress(read_study(make_study(1, failing=0.0, seed=1)))
    assert [share for _, share in one] == [pytest.approx(1.0)]


def test_ten_thousand_points_in_one_pass() -> None:
    x = np.random.default_rng(0).permutation(10_000).astype(float)
    history = volume_history(np.stack([x, 9_999 - x], axis=1), np.array([10_000.0, 10_000.0]))
    assert history[-1] == pytest.approx(10_000 * 10_001 / 2)
