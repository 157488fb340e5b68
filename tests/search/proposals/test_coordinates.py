"""Distances between candidates, beside a slow reference that goes from pair to pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.proposals._coordinates import GROUPS, Axes, Point
from edgesearch.spaces import Candidate, Pruning, Student

AXES = [(group, name) for group in ("student", "pruning") for name in ("a", "b", "c")]
points = st.builds(
    Point,
    st.dictionaries(st.sampled_from(AXES), st.floats(-1e6, 1e6)),
    st.dictionaries(st.sampled_from(AXES), st.sampled_from(["x", "y", "z"])),
)


def squared(group: str, one: Point, other: Point, everything: list[Point]) -> float:
    total = 0.0
    for axis in {axis for point in everything for axis in point.numbers if axis[0] == group}:
        values = [point.numbers[axis] for point in everything if axis in point.numbers]
        if axis in one.numbers and axis in other.numbers:
            total += ((one.numbers[axis] - other.numbers[axis]) / ((max(values) - min(values)) or 1.0)) ** 2
        elif axis in one.numbers or axis in other.numbers:
            total += 1.0
    for axis in {axis for point in everything for axis in point.names if axis[0] == group}:
        total += one.names.get(axis, "") != other.names.get(axis, "")
    return total


@given(st.lists(points, min_size=1, max_size=5), st.lists(points, max_size=5))
def test_distances_are_those_of_each_pair(known: list[Point], others: list[Point]) -> None:
    axes, everything = Axes(), known + others
    rows = [axes.row(point) for point in everything]
    found = axes.squares(axes.join(rows[: len(known)]), axes.join(rows[len(known) :]))
    total, weights = np.zeros((len(everything), len(known))), [0.5, 2.0, 3.0, 0.25, 7.0]
    for group, squares, weight in zip(GROUPS, found, weights, strict=True):
        slow = np.array([[squared(group, one, other, everything) for other in known] for one in everything])
        assert squares == pytest.approx(slow, abs=1e-9)
        total += weight * slow
    at_once = axes.weighted_squares(axes.join(rows[: len(known)]), axes.join(rows[len(known) :]), weights)
    assert at_once == pytest.approx(total, abs=1e-8)


@given(st.lists(points, min_size=2, max_size=6), st.integers(0, 5))
def test_the_order_in_which_points_were_seen_does_not_matter(known: list[Point], strange: int) -> None:
    one, other = Axes(), Axes()
    for point in [Point({("student", "d"): 1.0}, {("pruning", "d"): "w"})] * strange + known[::-1]:
        other.row(point)
    rows = [(axes, axes.join([axes.row(p) for p in known]), axes.join([])) for axes in (one, other)]
    squares = [axes.squares(seen, nothing) for axes, seen, nothing in rows]
    assert all(np.array_equal(a, b) for a, b in zip(*squares, strict=True))
    at_once = [axes.weighted_squares(seen, nothing, [1.0, 0.3, 3.0, 0.1, 0.7]) for axes, seen, nothing in rows]
    assert np.array_equal(*at_once)


def test_settings_and_metrics_are_coordinates() -> None:
    candidate = Candidate(student=Student(architecture="cnn_tiny", width=2.0), pruning=Pruning(method="one_step", ratio=0.5))
    point = Point.of(candidate, {"macs": np.e, "fps": 0.0, "board": "zcu104"})
    assert point.names["student", ".architecture"] == "cnn_tiny"
    assert point.numbers["student", ".width"] == 2.0
    assert point.numbers["pruning", ".ratio"] == 0.5
    assert point.numbers["metrics", "macs"] == pytest.approx(1.0)
    assert ("metrics", "fps") not in point.numbers  # no speed has no logarithm
