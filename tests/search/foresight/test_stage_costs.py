"""Seconds of whole stages, learnt from what trials paid."""

from __future__ import annotations

import pytest

from edgesearch.objectives import Conditions, Counts, Pipeline, Stage, plan
from edgesearch.search.foresight._stage_costs import StageCosts
from edgesearch.spaces import Candidate, Pruning, Student

COUNTS = Counts.of({"train": 1000, "validation": 200, "calibration": 100, "test": 200})
CONDITIONS = Conditions(data=dict.fromkeys(("meta", "train", "validation", "calibration"), "0"), granularity=8)


def costs() -> StageCosts:
    return StageCosts(lambda student: 1e6, COUNTS)


def stages_of(architecture: str = "cnn_tiny", ratio: float = 0.5) -> dict[str, Stage]:
    candidate = Candidate(
        student=Student(architecture=architecture, input_size=8),
        pruning=Pruning(method="one_step", ratio=ratio, granularity=8),
    )
    return {stage.kind: stage for stage in plan(candidate, Pipeline(), CONDITIONS).walk()}


def test_what_a_trial_paid_is_expected_of_the_next_one_too() -> None:
    learnt, stages = costs(), stages_of()
    for _ in range(5):
        learnt.learn(stages.values(), {"student": 60.0, "pruned": 7.0})
    assert learnt.remaining([stages["student"]]) == pytest.approx(60.0, rel=0.3)
    assert learnt.remaining([stages["pruned"]]) == pytest.approx(7.0, rel=0.3)
    assert learnt.remaining([stages_of(ratio=0.7)["pruned"]]) == pytest.approx(7.0, rel=0.5)


def test_a_training_is_as_long_as_with_its_rungs_wherever_it_was_stopped_between() -> None:
    whole, in_parts, stages = costs(), costs(), stages_of()
    for _ in range(5):
        whole.learn(stages.values(), {"student": 60.0})
        in_parts.learn(stages.values(), {"student": 40.0, "rung": 20.0})
    assert whole.remaining([stages["student"]]) == pytest.approx(in_parts.remaining([stages["student"]]))


def test_what_remains_is_the_sum_and_nothing_where_all_is_there() -> None:
    learnt, stages = costs(), list(stages_of().values())
    assert learnt.remaining([]) == 0.0
    assert learnt.remaining(stages) == pytest.approx(sum(learnt.remaining([stage]) for stage in stages))
    assert learnt.seconds([learnt.expectation(stage) for stage in stages]).shape == (len(stages),)
