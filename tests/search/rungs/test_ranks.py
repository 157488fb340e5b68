"""Fronts, spreads and who is beaten, as the definitions have them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.rungs._ranks import beaten, epsilon_net, front_numbers

POINTS = st.integers(2, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * n), min_size=1, max_size=24))


def dominates(one: Any, other: Any) -> bool:
    return bool((one <= other).all() and (one != other).any())


@given(POINTS)
def test_fronts_are_peeled_off_one_by_one(points: list[tuple[float, ...]]) -> None:
    losses = np.array(sorted(set(points)))
    numbers = front_numbers(losses)
    left, front = list(range(len(losses))), 0
    while left:
        peeled = [i for i in left if not any(dominates(losses[j], losses[i]) for j in left)]
        assert sorted(np.flatnonzero(numbers == front).tolist()) == peeled
        left, front = [i for i in left if i not in peeled], front + 1


@given(POINTS)
def test_of_equal_points_the_first_is_before_the_others(points: list[tuple[float, ...]]) -> None:
    numbers = front_numbers(np.array(points))
    for one, other in itertools.combinations(range(len(points)), 2):
        if points[one] == points[other]:
            assert numbers[one] < numbers[other]


PLANE = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12)


@given(PLANE, PLANE)
def test_an_epsilon_net_names_every_point_once_and_the_farthest_next(
    known: list[tuple[float, float]], points: list[tuple[float, float]]
) -> None:
    before, array = np.array(known).reshape(-1, 2), np.array(points).reshape(-1, 2)
    order = epsilon_net(np.concatenate([before, array]), named=len(before)).tolist()
    assert sorted(order) == list(range(len(points)))
    if points and not known:
        assert array[order[0], 0] == array[:, 0].min()
    for place in range(0 if known else 1, len(order)):
        named, rest = np.concatenate([before, array[order[:place]]]), array[order[place:]]
        gaps = np.linalg.norm(rest[:, None] - named[None], axis=2).min(axis=1)
        assert gaps[0] >= gaps.max() - 1e-12


@given(POINTS)
def test_the_first_of_a_spread_are_those_of_the_whole_spread(points: list[tuple[float, ...]]) -> None:
    array = np.array(points)
    for named, count in itertools.product((0, len(points) // 2), range(len(points) + 1)):
        assert epsilon_net(array, named=named, count=count).tolist() == epsilon_net(array, named=named)[:count].tolist()


@given(POINTS, st.integers(0, 24))
def test_beaten_is_what_a_member_of_the_front_is_nowhere_worse_than(points: list[tuple[float, ...]], count: int) -> None:
    losses, front = np.array(points), np.array(points)[:count]
    found = beaten(losses, front).tolist()
    assert found == [any((member <= row).all() for member in front) for row in losses]
    assert beaten(losses - 0.5, front).tolist() == [any((member <= row).all() for member in front) for row in losses - 0.5]
