"""The student, trained alone or with its teacher's help."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgesearch.objectives.stages._context import Context, weights_of
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec, TrainedSettings
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import STEP_PASSES, Recipe, Training
from edgesearch.spaces import Student


class StudentSettings(TrainedSettings):
    """Which network, and how it is trained."""

    student: Student
    recipe: Recipe


def _place(plan: Plan) -> Stage:
    settings = StudentSettings(
        student=plan.candidate.student,
        recipe=plan.recipe(plan.pipeline.train, student=plan.candidate.student),
        distillation=plan.distillation,
    )
    return plan.make("student", settings, reads=("train", "validation"), logits=plan.stage("logits"), teacher=plan.present())


def train_student(
    context: Context[StudentSettings], *, stop_after: int | None = None
) -> tuple[nn.Module, Training, dict[str, Any]]:
    """The student as its recipe leaves it, or after `stop_after` of its epochs; its training, and the figures of that."""
    settings = context.settings
    model, supervision = context.start(settings.student), context.supervision(settings.distillation)
    training, figures = context.train(model, settings.student, settings.recipe, supervision, stop_after=stop_after)
    return model, training, figures


def _run(context: Context[StudentSettings]) -> Result:
    model, training, figures = train_student(context)
    figures |= context.taught_by(context.settings.distillation)
    return Result(figures, weights_of(model), earlier_seconds=training.earlier_seconds)


def _images(settings: StudentSettings, data: Parts) -> float:
    return STEP_PASSES * settings.recipe.epochs * len(data.train)


SPEC = StageSpec(
    name="student",
    version=2,
    settings=StudentSettings,
    place=_place,
    run=_run,
    images=_images,
    recipe=lambda settings: settings.recipe,
    shared=True,
)
