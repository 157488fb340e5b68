"""Gradients of rounding: those of the function that is left when what rounding takes or adds is held fast."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgesearch.board_eval.graph import limits
from edgesearch.objectives.quantization._fake_quant import Scale, fixes_of, round_value, round_weight, scales_of, threshold_of


def rounding(value: float) -> tuple[int, float]:
    """`value` rounded half up, and what that adds."""
    rounded = math.floor(value + 0.5)
    return rounded, rounded - value


def by_differences(x: float, fix: int, bits: int, *, relu: bool, top: float | None) -> float:
    """The slope along log2 of the grid's step at `fix`, roundings held fast, of a value that is rounded and then clamped."""
    lowest, highest = limits(bits)
    step = 2.0**-fix
    rounded, error = rounding(x / step)
    top_rounded, top_error = (highest + 1, 0.0) if top is None else rounding(top / step)

    def relaxed(move: float) -> float:
        moved = step * 2.0**move
        if relu and (x <= 0 or rounded < 0):
            return 0.0
        if rounded > min(highest, top_rounded):
            return moved * (highest if top is None or top_rounded > highest else top / moved + top_error)
        return moved * (lowest if rounded < lowest else x / moved + error)

    return (relaxed(1e-6) - relaxed(-1e-6)) / 2e-6


def slopes(x: float, fix: int, bits: int, *, relu: bool, top: float | None) -> tuple[float, float]:
    """Of the value and of its threshold."""
    value = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(threshold_of(fix, bits), dtype=torch.float64, requires_grad=True)
    round_value(value, threshold, fix, bits, relu=relu, top=top).sum().backward()
    assert value.grad is not None
    assert threshold.grad is not None
    return float(value.grad), float(threshold.grad)


@settings(deadline=None, max_examples=300)
@given(
    x=st.floats(-20, 20),
    fix=st.integers(-3, 6),
    bits=st.sampled_from([5, 8]),
    kind=st.sampled_from([(False, None), (True, None), (True, 6.0)]),
)
def test_the_slope_of_a_threshold_is_that_of_the_relaxed_function(
    x: float, fix: int, bits: int, kind: tuple[bool, float | None]
) -> None:
    relu, top = kind
    if abs(x * 2.0**fix % 1 - 0.5) < 1e-3 or (relu and abs(x) < 1e-6):  # where the function jumps
        return
    assert slopes(x, fix, bits, relu=relu, top=top)[1] == pytest.approx(
        by_differences(x, fix, bits, relu=relu, top=top), abs=1e-5
    )


@pytest.mark.parametrize("fix", [0, 3, 4])
@pytest.mark.parametrize("x", [7.0, 10.0, 1e4])
def test_what_is_clipped_at_six_moves_no_position_that_holds_six(x: float, fix: int) -> None:
    assert slopes(x, fix, 8, relu=True, top=6.0) == (0.0, 0.0)


def test_what_the_range_clips_below_six_moves_its_position() -> None:
    end = 127 / 32
    assert slopes(10.0, 5, 8, relu=True, top=6.0) == (0.0, pytest.approx(end * math.log(2)))


def test_a_six_that_is_rounded_moves_its_position_by_what_rounding_adds() -> None:
    assert float(round_value(torch.tensor(10.0), torch.tensor(0.0), -2, 8, relu=True, top=6.0)) == 8.0
    assert slopes(10.0, -2, 8, relu=True, top=6.0)[1] == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(("w", "expected"), [(0.3, 0.25 - 0.3), (-9.0, -8.0), (9.0, 7.75)])
def test_weights_have_slopes_of_their_own(w: float, expected: float) -> None:
    weight, threshold = torch.tensor(w, requires_grad=True), torch.tensor(threshold_of(2, 6), requires_grad=True)
    round_weight(weight, threshold, 2, 6).backward()
    assert threshold.grad is not None
    assert float(threshold.grad) == pytest.approx(expected * math.log(2), rel=1e-5)


def rounded_by(fix: int | Scale, x: Tensor, bits: int, *, kind: tuple[bool, float | None] | None) -> tuple[Tensor, ...]:
    """What is made of `x`, and the gradients of value and threshold; `kind` None: as weights are rounded."""
    value, threshold = x.clone().requires_grad_(True), torch.zeros((), requires_grad=True)
    if kind is None:
        rounded = round_weight(value, threshold, fix, bits)
    else:
        rounded = round_value(value, threshold, fix, bits, relu=kind[0], top=kind[1])
    (rounded * torch.arange(1.0, len(x) + 1)).sum().backward()
    assert value.grad is not None
    assert threshold.grad is not None
    return rounded.detach(), value.grad, threshold.grad


@settings(deadline=None, max_examples=200)
@given(
    x=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=8),
    fix=st.integers(-4, 8),
    bits=st.sampled_from([5, 8]),
    kind=st.sampled_from([None, (False, None), (True, None), (True, 6.0)]),
)
def test_scales_in_tensors_round_to_the_same_bits(
    x: list[float], fix: int, bits: int, kind: tuple[bool, float | None] | None
) -> None:
    (scale,) = scales_of([torch.tensor(threshold_of(fix, bits))], bits)
    for one, other in zip(
        rounded_by(fix, torch.tensor(x), bits, kind=kind), rounded_by(scale, torch.tensor(x), bits, kind=kind), strict=True
    ):
        assert one.tolist() == other.tolist()


@given(thresholds=st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=5), bits=st.sampled_from([5, 8]))
def test_scales_are_exact_powers_of_the_positions(thresholds: list[float], bits: int) -> None:
    tensors = [torch.tensor(threshold) for threshold in thresholds]
    found = [(float(scale.up), float(scale.down)) for scale in scales_of(tensors, bits)]
    assert found == [(2.0**fix, 2.0**-fix) for fix in fixes_of(tensors, bits)]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_threshold_without_a_number_shows_in_what_it_rounds(wrong: float) -> None:
    good, bad = scales_of([torch.tensor(0.0), torch.tensor(wrong)], 8)
    assert float(round_value(torch.tensor(0.5), torch.tensor(0.0), good, 8)) == 0.5
    assert math.isnan(float(round_value(torch.tensor(0.5), torch.tensor(0.0), bad, 8)))
