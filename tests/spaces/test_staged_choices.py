"""What of the staged family a space searches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesearch.settings import explain
from edgesearch.spaces import Range, Space, StagedChoices

FULL: dict[str, Any] = {
    "students": ["staged", "resnet8", "cnn_tiny"],
    "width": [0.5, 1.0],
    "input_size": [8, 32],
    "student": {
        "staged": {
            "stem": ["3x3", "3x3/2", "4x4/4", "2x2"],
            "stages": [2, 3, 4],
            "depth": {"low": 1, "high": 4},
            "width": {"low": 16, "high": 64, "step": 16},
            "block": ["plain", "residual", "bottleneck", "inverted", "fire"],
            "expansion": [2, 4],
            "kernel": [3, 5],
            "down": ["stride", "pool"],
            "pooling": ["average", "max"],
            "head": [0, 64],
            "stage1": {"width": [32], "down": ["none", "pool"]},
        },
        "resnet8": {"width": [2.0, 1.0]},
    },
}
SPACE = Space.model_validate(FULL)


class Dice:
    """Draws at random and keeps what it was asked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert name not in self.asked, f"{name} was asked twice"
        self.asked[name] = self.random.choice(choices)
        return self.asked[name]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        assert step is not None
        self.asked[name] = low + step * self.random.randint(0, round((high - low) / step))
        return float(self.asked[name])


@given(st.integers(0, 10**9))
def test_only_parameters_that_exist_are_asked(seed: int) -> None:
    dice = Dice(seed)
    student = SPACE.suggest(dice).student
    asked = {name.removeprefix("staged.") for name in dice.asked if name.startswith("staged.")}
    assert bool(asked) == (dice.asked["student"] == "staged")
    assert ("width" in dice.asked) == (dice.asked["student"] == "cnn_tiny")
    assert ("resnet8.width" in dice.asked) == (dice.asked["student"] == "resnet8")
    if not asked:
        return
    count = dice.asked["staged.stages"]
    for number in range(1, 5):
        assert (f"block{number}" in asked) == (f"depth{number}" in asked) == (number <= count)
        assert (f"width{number}" in asked) == (1 < number <= count)  # the first stage has one width
        inverted = dice.asked.get(f"staged.block{number}") == "inverted"
        assert (f"expansion{number}" in asked) == (f"kernel{number}" in asked) == inverted
    assert student.network is not None
    assert [stage.width for stage in student.network.stages[1:]] == [
        dice.asked[f"staged.width{n}"] for n in range(2, count + 1)
    ]
    assert student == student.canonical()


def test_a_single_choice_is_not_asked_for() -> None:
    dice = Dice(0)
    table = {"depth": [2], "width": [16], "block": ["residual"]}
    student = Space.model_validate({"students": ["staged"], "student": {"staged": table}}).suggest(dice).student
    assert dice.asked == {}
    assert student.name == "staged 16 r2x16 r2x16/2 r2x16/2"


def test_widths_are_multiples_of_what_the_dpu_computes_side_by_side() -> None:
    space = Space(students=("staged",))
    drawn = {width for seed in range(80) for width in _widths(space, seed)}
    assert drawn == set(range(16, 129, 16))
    narrow = space.resolved(channel_parallel=12)
    assert {width for seed in range(80) for width in _widths(narrow, seed)} == set(range(12, 97, 12))
    assert narrow.granularity == (12,)


def _widths(space: Space, seed: int) -> list[int]:
    network = space.suggest(Dice(seed)).student.network
    return [16 if network is None else stage.width for stage in network.stages] if network else []


def test_a_space_is_the_same_once_it_is_stored() -> None:
    assert Space.model_validate(SPACE.model_dump(mode="json")) == SPACE
    assert isinstance(SPACE.student["staged"], StagedChoices)


def test_the_smallest_student_is_the_narrowest_of_the_family() -> None:
    staged, preset, _ = SPACE.smallest_students()
    assert staged.name == "staged 32 c1x32 c1x16/2"
    assert (preset.name, preset.input_size) == ("resnet8", 32)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"depth": [0]}, ["depth = 0", "1"]),
        ({"depth": 3}, ["staged.depth = 3", "a list of values, or a table"]),
        ({"depth": {"low": 1, "high": 99}}, ["depth = 99", "64"]),
        ({"width": {"low": 16, "high": 64, "step": 0.5}}, ["staged.width", "whole"]),
        ({"width": {"low": 16, "high": 64, "log": True}}, ["staged.width", "whole"]),
        ({"width": [16, 17], "block": ["fire"]}, ["width = 17", "even"]),
        ({"width": {"low": 16, "high": 20}, "block": ["fire"]}, ["width = 17", "even"]),
        ({"block": ["dense"]}, ["block.0 = 'dense'", "'fire'"]),
        ({"kernel": [7]}, ["kernel.0 = 7", "3 or 5"]),
        ({"stages": [1]}, ["stages.0 = 1", "2"]),
        ({"stages": [2], "stage3": {"width": [16]}}, ["stage3", "stages = [2]"]),
        ({"stage1": {"widht": [16]}}, ["stage1.widht", "unknown"]),
        ({"input_size": [3]}, ["input_size = 3", "4"]),
        (3, ["student.staged = 3", "a table"]),
    ],
)
def test_impossible_choices_are_named(table: Any, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Space.model_validate({"students": ["staged"], "student": {"staged": table}})
    sentence = explain(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_ranges_without_steps_go_by_ones() -> None:
    assert StagedChoices(depth=Range(low=1, high=3)).depth == Range(low=1, high=3, step=1)
