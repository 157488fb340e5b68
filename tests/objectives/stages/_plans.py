"""A candidate with everything, and the stages that are planned for one."""

from __future__ import annotations

import dataclasses

from edgesearch.objectives import (
    Conditions,
    Pipeline,
    Stage,
    Teacher,
    plan,
)
from edgesearch.objectives.training import Recipe
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

STUDENT = Student(architecture="cnn_tiny", input_size=16)


TEACHER = Student(architecture="cnn_small", input_size=16)


PIPELINE = Pipeline(teacher=Teacher(student=TEACHER, recipe=Recipe(epochs=30)))


PARTS = ("meta", "train", "validation", "calibration", "test")


CONDITIONS = Conditions(
    {part: f"{part} images" for part in PARTS}, views="shift", board={"name": "zcu104"}, dpu={"name": "B4096"}
)


TIMED = dataclasses.replace(CONDITIONS, timed={"name": "zcu104"})


EVERYTHING = Candidate(
    student=STUDENT,
    distillation=Distillation(kind="logit"),
    pruning=Pruning(method="iterative", ratio=0.5),
    quantization=Quantization(method="qat"),
)


def chain(
    candidate: Candidate, pipeline: Pipeline = PIPELINE, conditions: Conditions = CONDITIONS, last: str = "measured"
) -> dict[str, Stage]:
    return {stage.kind: stage for stage in plan(candidate, pipeline, conditions, last=last).walk()}


ALL_KINDS = {"teacher", "logits", "student", "sensitivity", "pruned", "quantized", "measured", "tested", "compiled"}
