"""How much memory stages are said to take before they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgesearch.objectives.quantization import QatRecipe
from edgesearch.objectives.stages import Conditions, Pipeline, Stage, StageMemory, Teacher, plan, rungs_of
from edgesearch.objectives.training import Recipe
from edgesearch.spaces import Candidate, Student

IMAGES = {"train": 1000, "validation": 200, "calibration": 50, "test": 500}
CONDITIONS = Conditions(
    data=dict.fromkeys(("train", "validation", "calibration", "test", "meta"), "0"),
    images=IMAGES,
    size=(8, 8),
    channels=1,
    classes=10,
)
STUDENT = Student(architecture="cnn_small", input_size=8)
RECIPE = Recipe(epochs=9, batch_size=256, mixed_precision="off")


def stages(batch: int = 256, width: float = 1.0, kind: str = "none", **quantization: Any) -> dict[str, Stage]:
    candidate = Candidate.model_validate(
        {
            "student": STUDENT.model_dump() | {"width": width},
            "distillation": {"kind": kind},
            "pruning": {"method": "one_step", "ratio": 0.3, "granularity": 8},
            "quantization": quantization,
        }
    )
    recipe = RECIPE.model_copy(update={"batch_size": batch})
    teacher = None if kind == "none" else Teacher(student=STUDENT, recipe=recipe.model_copy(update={"epochs": 4}))
    qat = QatRecipe(epochs=2, batch_size=batch)
    pipeline = Pipeline(train=recipe, finetune=recipe, qat=qat, teacher=teacher)
    found = {stage.kind: stage for stage in plan(candidate, pipeline, CONDITIONS).walk()}
    return found | {"rung": rungs_of(found["student"])[0]}


def test_trainings_are_said_to_take_memory_and_other_stages_are_not() -> None:
    memory = StageMemory(CONDITIONS)
    found = {kind: memory(stage) for kind, stage in stages(kind="logit").items()}
    assert found["student"] == found["rung"]
    assert min(found[kind] for kind in ("teacher", "student", "rung", "pruned")) > 350e6
    assert found["quantized"] == found["measured"] == found["logits"] == 0


def test_quantization_aware_training_takes_more_than_a_float_one_and_nothing_here_where_another_process_trains() -> None:
    memory = StageMemory(CONDITIONS)
    found = stages(method="qat")
    assert memory(found["quantized"]) > memory(found["student"]) + 20 * 256 * 64 * 32  # a copy of some maps, and its mask
    assert memory(stages(batch=1000, method="qat")["quantized"]) > memory(found["quantized"])
    taught = stages(kind="intermediate", method="qat")["quantized"]
    assert memory(taught) > memory(stages(kind="logit", method="qat")["quantized"])
    assert memory(stages(method="qat", backend="nndct")["quantized"]) == 0


def test_more_images_and_wider_networks_take_more() -> None:
    memory = StageMemory(CONDITIONS)
    student = memory(stages()["student"])
    assert memory(stages(batch=1000)["student"]) > student
    assert memory(stages(width=4.0)["student"]) > student
    assert memory(stages(kind="intermediate")["student"]) > memory(stages(kind="logit")["student"])


def test_the_logits_of_every_view_count_twice() -> None:
    """A training holds them as they were read and, once more, where it computes."""
    shown = replace(CONDITIONS, views="flip_crop", images=IMAGES | {"train": 50_000})
    candidate = Candidate.model_validate({"student": STUDENT.model_dump(), "distillation": {"kind": "logit"}})
    student = plan(candidate, Pipeline(train=RECIPE, teacher=Teacher(student=STUDENT)), shown, last="student")
    logits = student.inputs["logits"]
    assert logits.parameters["views"] == 4
    without_views = {name: value for name, value in logits.parameters.items() if name != "views"}
    one = replace(student, inputs=student.inputs | {"logits": replace(logits, parameters=without_views)})
    memory = StageMemory(shown)
    assert memory(student) - memory(one) == 3 * 2 * 50_000 * 10 * 4


def test_nothing_is_said_where_nothing_is_known_of_the_data() -> None:
    assert StageMemory(replace(CONDITIONS, images={}))(stages()["student"]) == 0


def test_a_network_that_cannot_be_trained_is_left_to_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = StageMemory(CONDITIONS)
    monkeypatch.setattr(memory, "_build", lambda student: 1 / 0)
    assert memory(stages()["student"]) == 0
