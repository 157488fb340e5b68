"""The hypervolume of a table, beside counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from _replay_tables import figures_of, small_study, small_table

from edgesearch.errors import StudyError
from edgesearch.testing import Volume


def test_the_reference_lies_where_the_constraints_meet() -> None:
    volume = Volume(small_table(), small_study())
    assert volume.reference == (-0.5, -math.log(500.0))


def test_an_objective_without_a_constraint_has_the_worst_there_is() -> None:
    study = small_study().with_changes(objectives=["accuracy", "size_bytes"])
    assert Volume(small_table(), study).reference == (-0.5, math.log(1e5))


def test_the_best_is_what_counting_random_points_gives() -> None:
    volume = Volume(small_table(), small_study())
    rng = np.random.default_rng(0)
    accuracy, log_fps = rng.uniform(0.5, 1.0, 40_000), rng.uniform(math.log(500), math.log(20_000), 40_000)
    dominated = np.zeros(len(accuracy), dtype=bool)
    for candidate in small_table().candidates.values():
        figures = figures_of(candidate)
        dominated |= (accuracy <= figures["accuracy"]) & (log_fps <= math.log(figures["fps"]))
    box = 0.5 * math.log(20_000 / 500)
    assert volume.best == pytest.approx(dominated.mean() * box, rel=0.02)


def test_what_breaks_a_constraint_counts_nothing() -> None:
    volume = Volume(small_table(), small_study())
    figures = {"accuracy": 0.49, "fps": 1e6}
    assert not volume.keeps(figures)
    assert volume.of([volume.losses(figures)]) == 0.0
    assert volume.of([]) == 0.0


def test_a_study_that_nothing_can_satisfy_is_refused() -> None:
    with pytest.raises(StudyError, match="loosen"):
        Volume(small_table(), small_study().with_changes(constraints={"min_fps": 1e9}))
