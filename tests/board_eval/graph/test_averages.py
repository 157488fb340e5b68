"""Means as the DPU takes them."""

from __future__ import annotations

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from edgesearch.board_eval.graph._averages import average_coefficient, average_factor


def test_positions_of_an_average_pool_are_vitis_ais() -> None:
    fixed = {(3, 3): (7, 6), (5, 5): (10, 8), (6, 6): (7, 8), (7, 7): (21, 10), (14, 14): (21, 12)}
    known = {**fixed, (13, 13): (97, 14), (8, 8): (1, 6)}
    assert {kernel: average_coefficient(kernel) for kernel in known} == known
    assert average_factor((8, 8)) == 1.0


@given(height=st.integers(1, 32), width=st.integers(1, 32))
def test_an_average_is_close_to_the_mean(height: int, width: int) -> None:
    m, s = average_coefficient((height, width))
    assert abs(Fraction(m, 2**s) * height * width - 1) < Fraction(1, 8)
    assert average_factor((height, width)) == height * width * m / 2**s


def slow_average_coefficient(height: int, width: int) -> tuple[int, int]:
    """The first of the closest m / 2**s to 1 / k, s below log2(128 k) rounded up (pytorch_nndct 3.5), in exact fractions."""
    k = height * width
    steps = next(s for s in range(64) if 2**s >= 128 * k)
    tried = [(round(Fraction(2**s, k)), s) for s in range(steps)]
    return min(tried, key=lambda pair: abs(Fraction(pair[0], 2 ** pair[1]) - Fraction(1, k)))


def test_average_coefficients_of_all_windows_up_to_32() -> None:
    known = {(3, 3), (5, 5), (6, 6), (3, 6), (6, 3), (7, 7), (14, 14)}
    for size in itertools.product(range(1, 33), repeat=2):
        if size not in known:
            assert average_coefficient(size) == slow_average_coefficient(*size), size
    assert average_factor((3, 6)) == average_factor((6, 3)) == 36 * 7 / 256
