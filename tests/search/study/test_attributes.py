"""What trials keep beside Optuna's own, as it is typed, stored and told."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

from edgesearch.search import Study
from edgesearch.search.study import TrialAttributes, account_of, attributes_of, candidate_of, estimate_of

PAGE = Path(__file__).parents[3] / "docs" / "study-database.md"
#: Numbers that a trial is judged by; the page tells them as figures, not in its table.
FIGURES = {"accuracy", "fps", "latency_ms"}


@pytest.fixture(scope="module")
def trials(tiny: Study) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=tiny.name, storage=tiny.home.database).trials


def told_of(heading: str) -> set[str]:
    """The attributes in the table under a heading of the page."""
    table = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_every_attribute_that_is_typed_is_told() -> None:
    assert told_of("Of a trial") == TrialAttributes.__annotations__.keys() - FIGURES


def test_what_is_stored_is_typed_or_a_figure(trials: list[optuna.trial.FrozenTrial]) -> None:
    for trial in trials:
        for name, value in trial.user_attrs.items():
            assert name in TrialAttributes.__annotations__ or isinstance(value, int | float | None), name


def test_what_is_stored_of_a_study_is_told(tiny: Study) -> None:
    stored = optuna.load_study(study_name=tiny.name, storage=tiny.home.database).user_attrs
    told = told_of("Of the study")
    assert {"study", "file", "folder", "data_fingerprint", "validation_images", "test_accuracy"} <= told & stored.keys()


def test_readers_give_what_was_stored(tiny: Study, trials: list[optuna.trial.FrozenTrial]) -> None:
    for trial, record in zip(trials, tiny.records(), strict=True):
        assert candidate_of(trial) == record.candidate
        assert attributes_of(trial)["recipe"] == str(record.candidate)
        assert account_of(trial) is None
        estimate = estimate_of(trial.user_attrs)
        assert record.candidate.pruning.removes or estimate["macs"] == record.macs
        assert {f"estimated_{name}" for name in estimate} <= trial.user_attrs.keys()
