"""Expected gains beside what the hypervolume says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.search.proposals._gain import Goal, Landscape, likely_accuracies
from edgesearch.search.study import Constraints, Objective
from edgesearch.search.study._hypervolume import volume

TWO = (Objective("accuracy"), Objective("fps"))
THREE = (*TWO, Objective("size_bytes", maximise=False))
LIMITS = Constraints(min_accuracy=0.5, min_fps=100.0, max_size_bytes=1e6)

points = st.lists(st.tuples(st.floats(0.3, 1.0), st.floats(50.0, 1e4)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(points, st.tuples(st.floats(0.3, 1.0), st.floats(50.0, 1e4)))
def test_a_gain_in_the_plane_is_the_difference_of_the_hypervolumes(
    front: list[tuple[float, float]], new: tuple[float, float]
) -> None:
    goal = Goal(TWO, LIMITS)
    losses = [goal.losses({"accuracy": accuracy, "fps": fps}) for accuracy, fps in [*front, new]]
    landscape = Landscape(goal, losses[:-1], [], seed=0)
    reference = np.array(goal.corner())
    expected = volume(np.array(losses), reference) - volume(np.array(losses[:-1]).reshape(-1, 2), reference)
    assert landscape.gains(np.array(losses[-1:]))[0] == pytest.approx(expected, abs=1e-9)


def test_gains_of_three_objectives_are_near_the_difference_of_the_hypervolumes_and_in_their_order() -> None:
    rng, goal = np.random.default_rng(0), Goal(THREE, LIMITS)
    metrics = [
        {"accuracy": a, "fps": f, "size_bytes": s}
        for a, f, s in zip(rng.uniform(0.5, 1, 24), rng.uniform(100, 1e4, 24), rng.uniform(1e4, 1e6, 24), strict=True)
    ]
    losses = np.array([goal.losses(m) for m in metrics])
    landscape, reference = Landscape(goal, losses[:12].tolist(), losses[12:].tolist(), seed=0), np.array(goal.corner())
    whole = volume(losses[:12], reference)
    exact = np.array([volume(np.vstack([losses[:12], point]), reference) - whole for point in losses[12:]])
    told = landscape.gains(losses[12:])
    best = int(np.argmax(exact))
    assert told[best] == told.max() > 0
    assert np.corrcoef(told, exact)[0, 1] > 0.95


def test_of_one_objective_a_gain_is_what_is_better_than_the_best() -> None:
    goal = Goal((Objective("accuracy"),), Constraints())
    landscape = Landscape(goal, [(-0.8,), (-0.6,)], [(-0.9,)], seed=0)
    assert landscape.gains(np.array([[-0.9], [-0.7]])) == pytest.approx([0.1, 0.0])


def test_an_accuracy_below_its_limit_gains_nothing_whether_it_is_an_objective_or_not() -> None:
    sure, unlikely = np.array([3.0, -3.0]), np.array([0.01, 0.01])
    accuracies = likely_accuracies(sure, unlikely)
    for names in (TWO, (Objective("fps"),)):
        goal = Goal(names, LIMITS)
        losses = np.array([goal.losses({"accuracy": 0.0, "fps": 1000.0})] * 2)
        gains = Landscape(goal, [], losses.tolist(), seed=0).expected(losses, accuracies)
        assert gains[0] > 0
        assert gains[1] == 0


def test_likely_accuracies_have_the_middle_and_the_spread_that_they_stand_for() -> None:
    accuracies = likely_accuracies(np.array([0.0, 2.0]), np.array([1.0, 1e-6]))
    assert np.median(accuracies[0]) == pytest.approx(0.5)
    assert accuracies[0].min() < 0.25 < 0.75 < accuracies[0].max()
    assert accuracies[1] == pytest.approx(1 / (1 + math.exp(-2.0)), abs=1e-4)
