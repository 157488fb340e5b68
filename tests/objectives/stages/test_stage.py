from __future__ import annotations

import json
from typing import Any

import pytest

from edgesearch.objectives import Pipeline, Stage, Teacher, plan
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

STUDENT = Student(architecture="cnn_tiny", input_size=16)
PIPELINE = Pipeline(teacher=Teacher(student=Student(architecture="cnn_small", input_size=16)))


def chain(candidate: Candidate, pipeline: Pipeline = PIPELINE, seed: int = 0, data: str = "d") -> dict[str, Stage]:
    last = plan(candidate, pipeline, data=data, seed=seed, board={"name": "zcu104"})
    return {stage.kind: stage for stage in last.walk()}


def test_a_plain_candidate_needs_no_teacher_and_no_pruning() -> None:
    assert list(chain(Candidate(student=STUDENT))) == ["student", "quantized", "measured"]


def test_everything_at_once_runs_in_order() -> None:
    candidate = Candidate(
        student=STUDENT, distillation=Distillation(kind="logit"), pruning=Pruning(method="one_step", ratio=0.5)
    )
    assert list(chain(candidate)) == ["teacher", "logits", "student", "pruned", "quantized", "measured"]


def test_one_student_serves_every_pruning_and_quantization_below_it() -> None:
    a = chain(Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5)))
    b = chain(Candidate(student=STUDENT, quantization=Quantization(method="qat")))
    assert a["student"].key == b["student"].key
    assert a["quantized"].key != b["quantized"].key


def test_one_measurement_of_sensitivity_serves_every_ratio() -> None:
    a, b = (chain(Candidate(student=STUDENT, pruning=Pruning(method="iterative", ratio=r))) for r in (0.3, 0.6))
    assert list(a) == ["student", "sensitivity", "pruned", "quantized", "measured"]
    assert a["sensitivity"].key == b["sensitivity"].key
    assert a["pruned"].key != b["pruned"].key
    finer = chain(Candidate(student=STUDENT, pruning=Pruning(method="iterative", ratio=0.3, granularity=4)))
    assert finer["sensitivity"].key != a["sensitivity"].key


def test_one_teacher_serves_every_student() -> None:
    wide = STUDENT.model_copy(update={"width": 2.0})
    a, b = (chain(Candidate(student=s, distillation=Distillation(kind="logit"))) for s in (STUDENT, wide))
    assert a["teacher"].key == b["teacher"].key
    assert a["logits"].key == b["logits"].key
    assert a["student"].key != b["student"].key


def test_self_distillation_starts_from_the_plain_student() -> None:
    stages = list(
        plan(Candidate(student=STUDENT, distillation=Distillation(kind="self")), PIPELINE, data="d", seed=0, board={}).walk()
    )
    plain = chain(Candidate(student=STUDENT))["student"]
    assert [stage.kind for stage in stages] == ["student", "logits", "student", "quantized", "measured"]
    assert stages[0].key == plain.key


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"data": "other images"},
        {"pipeline": PIPELINE.model_copy(update={"train": PIPELINE.train.model_copy(update={"lr": 0.5})})},
    ],
)
def test_seed_data_and_recipe_are_part_of_the_key(other: dict[str, Any]) -> None:
    candidate = Candidate(student=STUDENT)
    assert chain(candidate)["student"].key != chain(candidate, **other)["student"].key


def test_where_the_data_lies_is_not_part_of_the_key() -> None:
    moved = PIPELINE.model_copy(update={"data": PIPELINE.data.model_copy(update={"root": "/elsewhere"})})
    candidate = Candidate(student=STUDENT)
    assert chain(candidate)["measured"].key == chain(candidate, moved)["measured"].key


def test_a_stage_survives_json() -> None:
    stage = chain(Candidate(student=STUDENT, distillation=Distillation(kind="intermediate")))["measured"]
    again = Stage.from_json(json.loads(json.dumps(stage.to_json())))
    assert again.key == stage.key
    assert [s.key for s in again.walk()] == [s.key for s in stage.walk()]
    assert 0 <= stage.random_seed < 2**31


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[teacher\]"):
        chain(Candidate(student=STUDENT, distillation=Distillation(kind="logit")), Pipeline())
