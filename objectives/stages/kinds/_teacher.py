"""The teacher: a network trained for students to learn from, or one whose trained weights are given."""

from __future__ import annotations

from typing import Self

from edgesearch.objectives.stages._context import Context, weights_of
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec, TrainedSettings
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import STEP_PASSES, Recipe, evaluate
from edgesearch.spaces import Student


class TeacherSettings(TrainedSettings):
    """The study's teacher, with nothing left open."""

    student: Student
    recipe: Recipe = Recipe()
    trained: bool = False

    def with_versions(self, *, compares: bool) -> Self:
        """What is not trained here needs no code of trainings."""
        return self if self.trained else super().with_versions(compares=compares)


def _place(plan: Plan) -> Stage | None:
    teacher = plan.pipeline.teacher
    if teacher is None:
        return None
    if teacher.trained:  # what is not trained here has no recipe
        settings = TeacherSettings(student=teacher.student, trained=True)
    else:
        recipe = plan.recipe(teacher.recipe, own_views=True, student=teacher.student)
        settings = TeacherSettings(student=teacher.student, recipe=recipe)
    return plan.make("teacher", settings, reads=("validation",) if teacher.trained else ("train", "validation"))


def _run(context: Context[TeacherSettings]) -> Result:
    settings, data = context.settings, context.data
    model = context.start(settings.student, require_all=settings.trained)
    if settings.trained:
        accuracy = evaluate(
            model.eval().to(context.device),
            data.validation,
            input_size=settings.student.input_size,
            normalisation=data.normalisation,
            device=context.device,
            note=context.report,
        )
        return Result({"accuracy": accuracy, "trained_here": False}, weights_of(model))
    training, figures = context.train(model, settings.student, settings.recipe, None)
    return Result(figures, weights_of(model), earlier_seconds=training.earlier_seconds)


def _images(settings: TeacherSettings, data: Parts) -> float:
    return len(data.validation) if settings.trained else STEP_PASSES * settings.recipe.epochs * len(data.train)


SPEC = StageSpec(
    name="teacher",
    version=2,
    settings=TeacherSettings,
    place=_place,
    run=_run,
    images=_images,
    recipe=lambda settings: None if settings.trained else settings.recipe,
    shared=True,
)
