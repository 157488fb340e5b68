"""The teacher's logits on the training images, computed once for all students that see the same images."""

from __future__ import annotations

import torch

from edgesearch.objectives.data import Augmentation, mirrors_in_turn
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import teacher_logits
from edgesearch.settings import Settings

#: Views of the training images that logits are stored for.
VIEWS = 4
#: From this input on, in pixels a side, a teacher is shown as many images at a time as suit its values: of smaller ones 256 do.
_LARGE = 96


class LogitSettings(Settings):
    """How the images are shown, and in how many views, of which the first may be the images as they are.

    batch_version: of how many images are shown at a time, where the teacher's inputs are large.
    """

    augmentation: Augmentation = "none"
    augmentation_strength: float = 1.0
    views: int = 1
    plain_first: bool = True
    batch_version: int = 1


def _place(plan: Plan) -> Stage | None:
    teacher = plan.teacher()
    if teacher is None or plan.mixes:
        return None
    views = plan.conditions.views
    count = 1 if views == "none" else min(VIEWS, plan.pipeline.train.epochs)
    in_turn = mirrors_in_turn(views)
    if in_turn:  # an even number, so that the last view and the first are mirrored unlike
        count += count % 2
    strength = plan.recipe(plan.pipeline.train).augmentation_strength
    settings = LogitSettings(
        augmentation=views,
        augmentation_strength=strength,
        views=count,
        plain_first=not in_turn,
        batch_version=2 if plan.teaching_student().input_size >= _LARGE else 1,  # 1: 256 images, which decides last digits
    )
    return plan.make("logits", settings, reads=("train",), teacher=teacher)


def _run(context: Context[LogitSettings]) -> Result:
    student, teacher = context.network("teacher")
    logits = teacher_logits(
        teacher.eval(),
        context.data,
        input_size=student.input_size,
        augmentation=context.settings.augmentation,
        strength=context.settings.augmentation_strength,
        views=context.settings.views,
        batch_size=256 if context.settings.batch_version == 1 else None,
        device=context.device,
        note=context.report,
    )
    return Result({"views": len(logits)}, {"logits": {"logits": torch.from_numpy(logits)}})


def _images(settings: LogitSettings, data: Parts) -> float:
    return settings.views * len(data.train)


SPEC = StageSpec(
    name="logits", version=2, settings=LogitSettings, place=_place, run=_run, images=_images, random=False, shared=True
)
