"""Walking the late half of a space, and its ranges without steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.search.proposals._walk import Endless, Recorded, walk_choices
from edgesearch.search.study._file import parse_study
from edgesearch.spaces import Space

TEXT = """
name = "s"
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0]
pruning = ["none", "one_step"]
ratio = RATIO
granularity = [8]
"""


def space(ratio: str) -> Space:
    found = parse_study(TEXT.replace("RATIO", ratio).encode(), where="s", folder=Path()).space
    assert found is not None
    return found


def test_the_second_half_of_a_candidate_is_walked_for_the_first_that_is_given() -> None:
    known = space("[0.25, 0.5]")
    student, distillation = known.suggest_training(Recorded({"student": "cnn_tiny", "width": 0.5}))
    found = [c for c, _ in walk_choices(lambda trial: known.suggest_compression(trial, student, distillation))]
    assert [c.pruning.ratio for c in found] == [0.0, 0.25, 0.5]
    assert {(c.student.architecture, c.student.width) for c in found} == {("cnn_tiny", 0.5)}


@pytest.mark.parametrize(
    ("ratio", "values"),
    [
        ("{ low = 0.2, high = 0.6 }", [0.2, 0.3, 0.4, 0.5, 0.6]),
        ("{ low = 0.1, high = 0.9, log = true }", [0.1, 0.173205, 0.3, 0.519615, 0.9]),
    ],
)
def test_a_range_without_steps_has_the_values_of_a_grid_or_no_end(ratio: str, values: list[float]) -> None:
    known = space(ratio)
    student, distillation = known.suggest_training(Recorded({"student": "mlp", "width": 1.0}))
    suggest = lambda trial: known.suggest_compression(trial, student, distillation)  # noqa: E731
    found = list(walk_choices(suggest, grid=5))
    assert [c.pruning.ratio for c, _ in found[1:]] == pytest.approx(values, abs=1e-6)
    assert all(path.distributions["ratio"]._contains(path.params["ratio"]) for _, path in found[1:])
    with pytest.raises(Endless):
        list(walk_choices(suggest))
