"""What is known of a teacher and its student once both are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._stage import Stage

__all__ = ["teaching_figures"]


def teaching_figures(stages: Iterable[Stage], artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """teacher_accuracy, of the network that the student learnt from, and student_accuracy, before pruning and quantization.

    Both are top-1 on the validation images, 0..1, in floating point. `artifacts` are by key; what is not among them, and what a
    candidate without distillation does not have, is left out.
    """
    found: dict[str, float] = {}
    for stage in stages:
        taught = stage.kind == "student" and bool({"logits", "teacher"} & stage.inputs.keys())
        if stage.kind == "logits" or (taught and "teacher" in stage.inputs):
            teacher = artifacts.get(stage.inputs["teacher"].key)
            if teacher is not None:
                found["teacher_accuracy"] = float(teacher.figures["accuracy"])
        if taught and (student := artifacts.get(stage.key)) is not None:
            found["student_accuracy"] = float(student.figures["accuracy"])
    return found
