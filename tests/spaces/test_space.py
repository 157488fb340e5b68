from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesearch.errors import SettingsError
from edgesearch.spaces import Space, Student
from edgesearch.spaces._choices import Range


class Dice:
    """A suggester that draws at random and keeps what it was asked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert name not in self.asked, f"{name} was asked twice"
        self.asked[name] = self.random.choice(choices)
        return self.asked[name]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        steps = round((high - low) / step) if step else 0
        self.asked[name] = low + step * self.random.randint(0, steps) if step else self.random.uniform(low, high)
        return float(self.asked[name])


class Exactly:
    """A suggester that gives one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        return self.value


@pytest.mark.parametrize("value", [3e-11, 2.5e-7, 0.123456789, 0.30000000000000004])
def test_a_number_of_a_range_is_the_one_that_was_drawn(value: float) -> None:
    found = Range(low=1e-12, high=1.0, log=True).suggest(Exactly(value), "eps")
    assert found == pytest.approx(value, rel=1e-8)


def test_a_range_has_no_values_beyond_its_last_whole_step() -> None:
    assert Range(low=0.25, high=0.9, step=0.25).size == 3
    assert Range(low=0.1, high=0.7, step=0.1).size == 7  # though 0.6 / 0.1 is a little less than 6
    assert Range(low=0.5, high=0.5, step=0.25).size == 1


def test_a_width_that_makes_a_staged_network_too_wide_is_refused() -> None:
    name = "staged 64 r1x1024 r1x1024/2"
    with pytest.raises(SettingsError, match="width = 4 makes a stage or stem 4,096 channels wide, and the most are 2,048"):
        Student(architecture=name, width=4.0)
    for width in ([1.0, 4.0], {"low": 1.0, "high": 4.0, "step": 1.0}):
        with pytest.raises(ValidationError, match="width = 4 makes a stage or stem"):
            Space.model_validate({"students": [name], "width": width})
    assert Student(architecture=name, width=2.0).canonical().staged is not None


FULL = Space.model_validate(
    {
        "students": ["resnet18", "cnn_tiny", "mlp"],
        "width": [0.5, 1.0],
        "input_size": [16, 32],
        "stem": ["small", "imagenet"],
        "distillation": ["none", "logit", "intermediate", "self", "nkd"],
        "temperature": {"low": 1.0, "high": 8.0},
        "alpha": [0.3, 0.7],
        "beta": [0.1, 1.0],
        "gamma": [0.5, 1.5],
        "nkd_temperature": [1.0, 2.0],
        "pruning": ["none", "one_step", "iterative", "unstructured", "n_m"],
        "ratio": {"low": 0.1, "high": 0.9, "step": 0.1},
        "pattern": ["2:4", "1:4"],
        "pruning_target": ["macs", "fps"],
        "granularity": [8, 16],
        "steps": [2, 3],
        "quantization": ["ptq", "qat"],
        "bits": [8, 5, 16],
        "algorithm": ["best", "vitis", "per_channel"],
        "qat_start": ["trained", "scratch"],
        "student": {"mlp": {"width": [0.25, 2.0], "input_size": [28]}},
    }
)


@given(st.integers(0, 10**9))
def test_only_parameters_with_an_effect_are_asked(seed: int) -> None:
    dice = Dice(seed)
    candidate = FULL.suggest(dice)
    asked = set(dice.asked)
    assert candidate == candidate.canonical()
    assert ("stem" in asked) == (candidate.student.architecture == "resnet18")
    assert ("mlp.width" in asked) == (candidate.student.architecture == "mlp")
    assert ("width" in asked) == (candidate.student.architecture != "mlp")
    kind = candidate.distillation.kind
    assert ("temperature" in asked) == ("alpha" in asked) == (kind in ("logit", "intermediate", "self"))
    assert ("gamma" in asked) == ("nkd_temperature" in asked) == (kind == "nkd")
    assert ("beta" in asked) == (candidate.distillation.kind == "intermediate")
    assert ("ratio" in asked) == (candidate.pruning.method not in ("none", "n_m"))
    assert ("pattern" in asked) == (candidate.pruning.method == "n_m")
    assert ("pruning_target" in asked) == ("granularity" in asked) == candidate.pruning.removes
    assert ("steps" in asked) == (candidate.pruning.method == "iterative")
    assert ("quantization" in asked) == (candidate.quantization.bits != 16 and not candidate.pruning.sparse)
    assert ("qat_start" in asked) == (candidate.quantization.method == "qat" and candidate.pruning.method == "none")


@given(st.integers(0, 10**9))
def test_a_ratio_of_nothing_is_no_pruning_whatever_follows(seed: int) -> None:
    space = Space.model_validate(
        {
            "students": ["cnn_tiny"],
            "pruning": ["one_step", "iterative"],
            "ratio": [0.0, 0.5],
            "quantization": ["qat"],
            "qat_start": ["trained", "scratch"],
        }
    )
    dice = Dice(seed)
    candidate = space.suggest(dice)
    assert (candidate.pruning.method == "none") == (dice.asked["ratio"] == 0.0)
    assert candidate.quantization.start == dice.asked.get("qat_start", "trained")


def test_a_single_choice_is_not_a_parameter() -> None:
    dice = Dice(0)
    candidate = Space(students=("mlp",), input_size=(28,)).suggest(dice)
    assert dice.asked == {}
    assert candidate.student.input_size == 28


def test_steps_of_a_range_are_round_numbers() -> None:
    prunings = [FULL.suggest(Dice(seed)).pruning for seed in range(300)]
    ratios = {pruning.ratio for pruning in prunings if pruning.method not in ("none", "n_m")}
    assert ratios == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}


@pytest.mark.parametrize(
    "space",
    [
        {"students": []},
        {"students": ["resnet99"]},
        {"ratio": [0.96]},
        {"ratio": {"low": 0.5, "high": 0.99}},
        {"ratio": {"low": 0.5, "high": 0.1}},
        {"temperature": [0.0]},
        {"alpha": [1.5]},
        {"width": []},
        {"bits": [7]},
        {"student": {"resnet50": {"width": [1.0]}}},
        {"temperature": {"low": 0.0, "high": 8.0, "log": True}},
    ],
)
def test_impossible_spaces_are_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Space.model_validate(space)


class Named(Dice):
    """Keeps the choices of every name, which Optuna lets change for ranges alone."""

    def __init__(self, seed: int, choices: dict[str, Any]) -> None:
        super().__init__(seed)
        self.choices = choices

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert self.choices.setdefault(name, choices) == choices
        return super().suggest_categorical(name, choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        assert self.choices.setdefault(name, log) is log
        return super().suggest_float(name, low, high, step=step, log=log)


def test_settings_of_networks_of_one_name_are_told_apart_where_they_differ() -> None:
    first = {
        "depth": [1, 2],
        "same": [3, 4],
        "kind": {"low": 1, "high": 3, "step": 1},
        "wide": {"low": 0.1, "high": 1.0},
        "scale": {"low": 0.1, "high": 1.0, "log": True},
        "once": [1],
    }
    second = {
        "depth": {"when": {"same": [3, 4]}, "choices": [2, 3, 4]},
        "kind": ["a", "b"],
        "wide": {"low": 2.0, "high": 3.0},
        "scale": {"low": 0.1, "high": 1.0},
        "once": [2, 3],
        "own": [5, 6],
    }
    tables = {
        "one:Net": {"parameters": first, "width": [0.5, 1.0]},
        "two:Net": {"parameters": {"same": first["same"], **second}, "width": [0.5, 2.0]},
        "two:Other": {"parameters": first},
    }
    space = Space.model_validate({"students": list(tables), "student": tables})
    choices: dict[str, Any] = {}
    for seed in range(50):
        candidate = space.suggest(Named(seed, choices))
        asked = tables[candidate.student.architecture]["parameters"]
        assert candidate.student.parameters.keys() == asked.keys()  # type: ignore[attr-defined]
    apart = {f"{path}.{name}" for path in ("one:Net", "two:Net") for name in ("depth", "kind", "scale", "width")}
    shared = {"Net.same", "Net.wide", "Net.once", "Net.own"}
    other = {f"Other.{name}" for name in ("depth", "same", "kind", "wide", "scale")}
    assert choices.keys() == apart | shared | other | {"student"}
