"""Ways through a space without a sampler."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.proposals._walk import Dice, Recorded, walk
from edgesearch.spaces import Space

SPACE = Space.model_validate(
    {
        "students": ["cnn_tiny", "cnn_small"],
        "width": [0.5, 1.0],
        "input_size": [8],
        "pruning": ["none", "one_step"],
        "ratio": {"low": 0.2, "high": 0.6, "step": 0.2},
        "granularity": [8],
    }
)


def test_random_draws_are_candidates_of_the_space_and_reach_all() -> None:
    everything = {candidate.key for candidate, _ in walk(SPACE)}
    drawn = {SPACE.suggest(Dice(seed)).key for seed in range(400)}
    assert drawn == everything


@given(st.integers(0, 2**31))
def test_a_draw_is_its_seeds_and_its_answers_lead_to_it_again(seed: int) -> None:
    dice = Dice(seed)
    candidate = SPACE.suggest(dice)
    assert SPACE.suggest(Dice(seed)) == candidate
    assert SPACE.suggest(Recorded(dice.params)) == candidate
    assert dice.params.keys() == dice.distributions.keys()
    assert all(
        dice.distributions[name]._contains(dice.distributions[name].to_internal_repr(v)) for name, v in dice.params.items()
    )


@given(st.integers(0, 2**31), st.floats(1e-3, 1.0), st.floats(1.0, 1e3))
def test_numbers_lie_in_their_range(seed: int, low: float, high: float) -> None:
    dice = Dice(seed)
    assert low <= dice.suggest_float("a", low, high) <= high
    assert low <= dice.suggest_float("b", low, high, log=True) <= high
    steps = (dice.suggest_float("c", 0.25, 1.0, step=0.25) - 0.25) / 0.25
    assert steps == pytest.approx(round(steps))
    assert 0 <= round(steps) <= 3


def test_logarithms_are_drawn_evenly() -> None:
    drawn = sorted(math.log10(Dice(seed).suggest_float("a", 1e-4, 1.0, log=True)) for seed in range(2000))
    assert drawn[len(drawn) // 2] == pytest.approx(-2.0, abs=0.2)
