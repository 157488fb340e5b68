"""Intervals of a counted share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.study._interval import is_distinct, uncertainty, wilson_interval


def test_four_hundred_images_are_two_or_three_points() -> None:
    assert 0.018 < uncertainty(0.95, 400) < 0.025
    assert uncertainty(0.5, 400) == pytest.approx(0.049, abs=0.001)
    low, high = wilson_interval(0.9, 10)  # 9 of 10
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_its_ends_are_where_the_share_is_just_not_excluded(right_of: tuple[int, int]) -> None:
    right, count = right_of
    share = right / count
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / count), rel=1e-6)


@pytest.mark.parametrize(("share", "count"), [(-0.1, 10), (1.1, 10), (0.5, 0)])
def test_what_is_no_share_is_refused(share: float, count: int) -> None:
    with pytest.raises(ValueError, match="`share`"):
        wilson_interval(share, count)


def test_few_images_tell_nothing_apart() -> None:
    assert not is_distinct(0.2, 0.0, 10)
    assert is_distinct(0.25, 0.0, 20)


@given(st.integers(1, 1500), st.data())
def test_shares_are_distinct_in_either_order_and_the_more_the_farther(count: int, data: st.DataObject) -> None:
    right = st.integers(0, count)
    first, second, third = sorted(data.draw(right) / count for _ in range(3))
    assert not is_distinct(first, first, count)
    assert is_distinct(first, second, count) == is_distinct(second, first, count)
    if is_distinct(first, second, count):
        assert is_distinct(first, third, count)


def test_two_points_of_ten_thousand_images_are_distinct_and_of_four_hundred_are_not() -> None:
    assert is_distinct(0.90, 0.92, 10_000)
    assert not is_distinct(0.90, 0.92, 400)
