"""From a candidate to its stages."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edgesearch.errors import SpaceError, StoreError
from edgesearch.objectives import STAGE_KINDS, Conditions, Pipeline, Stage, Teacher, plan, stage_specs
from edgesearch.objectives.training import Recipe
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization

from ._plans import ALL_KINDS, CONDITIONS, EVERYTHING, PIPELINE, STUDENT, TEACHER, TIMED, chain


def test_a_plain_candidate_needs_no_teacher_and_no_pruning() -> None:
    assert list(chain(Candidate(student=STUDENT))) == ["student", "quantized", "measured"]


def test_everything_at_once_runs_in_order() -> None:
    expected = ["teacher", "logits", "student", "sensitivity", "pruned", "quantized"]
    assert sorted(chain(EVERYTHING), key=[*expected, "measured"].index) == [*expected, "measured"]
    order = list(chain(EVERYTHING))
    for stage in chain(EVERYTHING).values():
        assert all(order.index(upstream.kind) < order.index(stage.kind) for upstream in stage.inputs.values())


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


def test_sensitivity_is_measured_where_pruning_follows_it() -> None:
    def has(**pruning: Any) -> bool:
        return "sensitivity" in chain(Candidate(student=STUDENT, pruning=Pruning(**pruning)), conditions=TIMED)

    assert [has(method="one_step", ratio=ratio) for ratio in (0.4, 0.5)] == [False, True]
    assert has(method="one_step", ratio=0.4, target="fps")
    assert not has(method="one_step", ratio=0.8, backend="vai")


def test_only_pruning_by_time_depends_on_the_board() -> None:
    def key(target: Any, conditions: Conditions) -> str:
        pruning = Pruning(method="one_step", ratio=0.3, target=target)
        return chain(Candidate(student=STUDENT, pruning=pruning), conditions=conditions)["pruned"].key

    other = dataclasses.replace(TIMED, timed={"name": "another"})
    assert key("macs", TIMED) == key("macs", other) == key("macs", CONDITIONS)
    assert key("fps", TIMED) != key("fps", other)
    with pytest.raises(SpaceError, match=r"target = 'fps' needs a board whose times are computed; use 'macs'"):
        key("fps", dataclasses.replace(CONDITIONS, timed={}))


def test_one_teacher_serves_every_student() -> None:
    wide = STUDENT.model_copy(update={"width": 2.0})
    a, b = (chain(Candidate(student=s, distillation=Distillation(kind="logit"))) for s in (STUDENT, wide))
    assert a["teacher"].key == b["teacher"].key
    assert a["logits"].key == b["logits"].key
    assert a["student"].key != b["student"].key


def test_self_distillation_starts_from_the_plain_student() -> None:
    candidate = Candidate(student=STUDENT, distillation=Distillation(kind="self"))
    stages = list(plan(candidate, PIPELINE, CONDITIONS).walk())
    assert [stage.kind for stage in stages] == ["student", "logits", "student", "quantized", "measured"]
    assert stages[0].key == chain(Candidate(student=STUDENT))["student"].key


def test_a_teacher_that_is_trained_like_the_students_is_one_of_them() -> None:
    alike = Pipeline(teacher=Teacher(student=TEACHER))
    taught = Candidate(student=STUDENT, distillation=Distillation(kind="logit"), pruning=Pruning(method="one_step", ratio=0.5))
    teacher = next(stage for stage in plan(taught, alike, CONDITIONS).walk())
    assert teacher.key == chain(Candidate(student=TEACHER), alike)["student"].key
    itself = list(plan(taught.model_copy(update={"student": TEACHER}), alike, CONDITIONS, last="student").walk())
    assert [stage.kind for stage in itself] == ["student", "logits", "student"]
    assert itself[0].key == teacher.key != itself[2].key
    weights = {"weights": "a.npz", "weights_sha256": "1" * 64}
    given = Pipeline(teacher=Teacher(student=TEACHER.model_copy(update=weights), trained=True))
    assert chain(taught, given)["teacher"].kind == "teacher"


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"\[teacher\]"):
        chain(Candidate(student=STUDENT, distillation=Distillation(kind="logit")), Pipeline())


def test_a_stage_survives_json() -> None:
    stage = chain(EVERYTHING)["measured"]
    again = Stage.from_json(json.loads(json.dumps(stage.to_json())))
    assert again.key == stage.key
    assert [s.key for s in again.walk()] == [s.key for s in stage.walk()]
    assert 0 <= stage.random_seed < 2**31


def test_training_images_are_shown_in_one_way() -> None:
    """The teacher's logits, the student, fine-tuning and QAT see the same views; the teacher's own training has its own."""
    own = Teacher(student=STUDENT, recipe=Recipe(augmentation="flip_crop"))
    stages = chain(EVERYTHING, PIPELINE.model_copy(update={"teacher": own}))
    views = {
        kind: stage.parameters.get("augmentation") or stage.parameters.get("recipe", {}).get("augmentation")
        for kind, stage in stages.items()
        if kind not in ("sensitivity", "measured")
    }
    assert views == {"teacher": "flip_crop", "logits": "shift", "student": "shift", "pruned": "shift", "quantized": "shift"}
    stronger = Teacher(student=STUDENT, recipe=Recipe(augmentation_strength=0.5))
    changed = dataclasses.replace(CONDITIONS, views="colour")
    for teacher, strength in ((own, 1.0), (stronger, 0.5)):
        stages = chain(EVERYTHING, PIPELINE.model_copy(update={"teacher": teacher}), changed)
        assert stages["teacher"].parameters["recipe"].get("augmentation_strength", 1.0) == strength
        assert "augmentation_strength" not in stages["student"].parameters["recipe"]
    with pytest.raises(ValueError, match=r"\[train\] alone"):
        Pipeline(train=Recipe(augmentation="none"), finetune=Recipe(augmentation="shift"))


def test_a_stage_of_another_version_is_refused() -> None:
    stage = chain(EVERYTHING)["student"]
    other = dataclasses.replace(stage, version=99)
    assert other.key != stage.key
    with pytest.raises(StoreError, match="same edgesearch"):
        stage_specs().find("student").settings_of(other)


@pytest.mark.parametrize("changes", [{"compiler": "vai"}, {"dpu": {}}])
def test_a_file_for_the_board_is_made_where_this_program_compiles(changes: dict[str, Any]) -> None:
    assert CONDITIONS.compiles(EVERYTHING)
    assert not dataclasses.replace(CONDITIONS, **changes).compiles(EVERYTHING)
    assert not CONDITIONS.compiles(Candidate(student=STUDENT, quantization=Quantization(bits=5)))
    assert not CONDITIONS.compiles(Candidate(student=STUDENT, pruning=Pruning(method="n_m")))
    assert dataclasses.replace(CONDITIONS, **changes, toolchain="xcompiler-3.5.0").compiles(EVERYTHING) == (
        "dpu" not in changes
    )


def test_what_the_board_runs_is_no_part_of_a_measurement() -> None:
    stages = chain(EVERYTHING, last="compiled")
    assert list(stages)[-2:] == ["quantized", "compiled"]
    assert stages["compiled"].seed is None
    assert "compiled" not in chain(EVERYTHING)


def test_every_kind_is_found_by_its_file() -> None:
    assert set(stage_specs()) == ALL_KINDS | {"on_board", "rung"}  # where boards measure; where trainings may be stopped
    assert set(stage_specs()) == set(STAGE_KINDS)
