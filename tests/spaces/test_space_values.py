"""Every value that a space offers is one that a candidate can have; others are refused when the space is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from pydantic import ValidationError

from edgesearch.errors import SettingsError
from edgesearch.settings import explain
from edgesearch.spaces import Candidate, Range, Space


class _Drawn:
    """Answers every question with the choice that its numbers point at."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = [*numbers, 0.0] * 20

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[int(self._numbers.pop(0) * (len(choices) - 1))]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return low + self._numbers.pop(0) * (high - low)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"input_size": [3]}, ["input_size = 3", "4"]),
        ({"input_size": 32}, ["input_size = 32", "a list"]),
        ({"students": "mlp"}, ["students = 'mlp'", "a list"]),
        ({"width": [-1.0]}, ["width = -1.0", "greater than 0"]),
        ({"width": {"low": -1.0, "high": 1.0}}, ["width = -1.0", "greater than 0"]),
        ({"width": "wide"}, ["width = 'wide'", "a list of values, or a table"]),
        ({"width": {"low": "a", "high": 1}}, ["width.low = 'a'", "number"]),
        ({"width": {"low": float("nan"), "high": 1.0}}, ["width.low = nan", "finite"]),
        ({"width": {"low": 0.1, "high": 1.0, "step": float("inf")}}, ["width.step = inf", "finite"]),
        ({"width": ["0.5"]}, ["`width` is '0.5'", "a number without quotes"]),
        ({"width": [True]}, ["`width` is true", "a number"]),
        ({"head": "16"}, ["`head` is '16'", "a number without quotes"]),
        ({"width": []}, ["width = []", "at least 1 value"]),
        ({"beta": [200.0]}, ["beta = 200.0", "100"]),
        ({"granularity": [0]}, ["granularity = 0", "1"]),
        ({"steps": [99]}, ["steps = 99", "20"]),
        ({"head": -1}, ["head = -1", "0"]),
        ({"pattern": ["2:4", "4:4"]}, ["pattern", "4:4", "N below M"]),
        ({"pattern": ["half"]}, ["pattern", "half"]),
        ({"student": {"cnn_tiny": {"input_size": [2]}}}, ["student.cnn_tiny.input_size = 2", "4"]),
        ({"student": {"cnn_tiny": {"input_size": []}}}, ["student.cnn_tiny.input_size = []", "at least 1 value"]),
        ({"student": {"cnn_tiny": {"width": [9.0]}}}, ["student.cnn_tiny.width = 9.0", "4"]),
        ({"student": {"cnn_tiny": {"head": 99999}}}, ["student.cnn_tiny.head = 99999", "8192"]),
        ({"student": {"cnn_tiny": 3}}, ["student.cnn_tiny = 3", "a table"]),
    ],
)
def test_impossible_values_are_named_with_what_was_expected(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Space.model_validate(tables)
    sentence = explain(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence
    assert sentence.count("expected") == 1, sentence


@given(
    width=st.floats(-1, 5),
    span=st.floats(0, 2),
    size=st.integers(0, 1100),
    ratio=st.floats(-0.5, 1.5),
    temperature=st.floats(-1, 120),
    granularity=st.integers(-1, 300),
    numbers=st.lists(st.floats(0, 1), max_size=12),
)
def test_what_a_space_accepts_makes_candidates(
    width: float, span: float, size: int, ratio: float, temperature: float, granularity: int, numbers: list[float]
) -> None:
    try:
        space = Space(
            width=Range(low=width, high=width + span),
            input_size=(size,),
            ratio=(ratio,),
            temperature=(temperature,),
            granularity=(granularity,),
            distillation=("none", "self"),
            pruning=("none", "one_step", "iterative", "unstructured", "n_m"),
            quantization=("ptq", "qat"),
            bits=(5, 8, 16),
            qat_start=("trained", "scratch"),
        )
    except SettingsError:
        return
    assert isinstance(space.suggest(_Drawn(numbers)), Candidate)


def test_a_students_own_values_stand_for_those_of_the_space() -> None:
    space = Space.model_validate(
        {
            "students": ["cnn_tiny", "resnet18"],
            "width": {"low": 0.25, "high": 1.0},
            "input_size": [16, 32],
            "student": {"resnet18": {"width": [0.75, 0.5], "input_size": [64], "stem": ["imagenet"]}},
        }
    )
    tiny, resnet = space.smallest_students()
    assert (tiny.width, tiny.input_size, tiny.stem) == (0.25, 32, "small")
    assert (resnet.width, resnet.input_size, resnet.stem) == (0.5, 64, "imagenet")
    assert space.choices("cnn_tiny", "width") == Range(low=0.25, high=1.0)


@pytest.mark.parametrize("ends", [{"low": 8, "high": math.inf}, {"low": -math.inf, "high": 8}, {"low": 0, "high": math.nan}])
def test_a_range_has_ends(ends: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="finite"):
        Range(**ends)


@given(
    low=st.integers(-20, 20),
    steps=st.integers(1, 12),
    rest=st.integers(0, 9),
    unit=st.sampled_from([0.1, 0.05, 0.3, 1.0, 16.0]),
)
def test_a_range_ends_at_its_last_step(low: int, steps: int, rest: int, unit: float) -> None:
    """Optuna is asked for what there is, so that it warns of nothing (a warning is an error here)."""
    start = round(low * unit, 9)
    numbers = Range(low=start, high=start + unit * (steps + rest / 10), step=unit)
    asked = FloatDistribution(numbers.low, numbers.last, step=unit)
    assert asked.high == numbers.last <= numbers.high + 1e-9
    assert numbers.size == 1 + round((asked.high - asked.low) / unit)
