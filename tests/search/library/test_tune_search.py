"""What Ray Tune is told to try, without Ray."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from _bench import TEXT

from edgesearch.search import StudyFile
from edgesearch.search.library._inputs import read_inputs
from edgesearch.search.library._tune_journal import Journal
from edgesearch.search.library._tune_search import TuningBudget, _plan
from edgesearch.search.library._tune_space import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.find("cnn_tiny", read_inputs(StudyFile.parse(tomllib.loads(TEXT)), to_run=False))


def drawn(target: Target, journal: Journal, samples: int, seed: int = 0) -> list[dict[str, Any]]:
    searcher = _plan(target, journal, TuningBudget(samples, 1, None, 0.0, 0), seed).search_alg
    return [searcher.suggest(str(number)) for number in range(samples)]


def test_a_search_that_goes_on_draws_what_it_has_not_drawn(target: Target, tmp_path: Path) -> None:
    first = drawn(target, Journal(tmp_path / "j.json"), 4)
    assert first[0] == target.start
    assert first == drawn(target, Journal(tmp_path / "other.json"), 4)
    journal = Journal(tmp_path / "j.json")
    for number, settings in enumerate(first):
        journal.add(settings, f"{number:064}", epochs=1, accuracy=0.5, failure="")
    again = drawn(target, Journal(tmp_path / "j.json"), 8)
    assert again[:4] == first
    assert not [settings for settings in again[4:] if settings in first]


def test_any_seed_that_a_study_may_have_serves(target: Target, tmp_path: Path) -> None:
    assert len(drawn(target, Journal(tmp_path / "j.json"), 2, seed=2**40)) == 2
