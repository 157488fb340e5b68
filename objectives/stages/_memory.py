"""How much memory a stage's process takes at its peak, told before it starts, so that it is put where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from edgesearch.objectives.quantization import QatRecipe, predict_qat_memory
from edgesearch.objectives.stages._context import student_of
from edgesearch.objectives.stages._plan import Conditions
from edgesearch.objectives.stages._spec import stage_specs
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import DataShape, Recipe, Supervision, give_back, predict_memory
from edgesearch.spaces import Distillation, Student, build

__all__ = ["StageMemory"]

#: What a process has before it reads data: interpreter, torch, and oneDNN's kernels of the stages that it ran before. Measured:
#: 255 MB of a fresh one, some 330 behind many. Two fifths are pages that it shares with others, more than Ray's worker takes.
_PROCESS_BYTES = 300_000_000


class _Training(NamedTuple):
    """What decides the memory of a training.

    views: for how many its teacher's logits are stored; 0: for none. bits: of a network that is trained as the DPU computes it;
    0: of one in float.
    """

    student: Student
    recipe: Recipe
    distillation: Distillation
    teacher: Student | None
    views: int
    bits: int

    @property
    def key(self) -> tuple[str, ...]:
        student, recipe = self.student.model_dump_json(), self.recipe.model_dump_json()
        return (student, recipe, self.distillation.kind, str(self.teacher), str(self.views), str(self.bits))


class StageMemory:
    """Called with a stage: bytes of its process at its peak; 0 for a stage that trains nothing itself.

    folder: where the user's own code is looked for first.
    """

    def __init__(self, conditions: Conditions, folder: Path | None = None) -> None:
        images, (height, width) = conditions.images, conditions.size
        counts = images.get("train", 0), images.get("validation", 0)
        self._data = DataShape(*counts, (height, width), conditions.channels, conditions.classes)
        self._images = sum(images.values())
        self._folder = folder
        self._known: dict[tuple[str, ...], int] = {}

    def __call__(self, stage: Stage) -> int:
        """Equal trainings are looked at once."""
        training = self._training(stage)
        if training is None:
            return 0
        if training.key not in self._known:
            try:
                self._known[training.key] = self._of(training)
            except (Exception, SystemExit):  # a network that cannot be trained ends its stage, which says why
                self._known[training.key] = 0
        return self._known[training.key]

    def knows(self, stage: Stage) -> bool:
        """Whether it is told at once, without a look at the training."""
        training = self._training(stage)
        return training is None or training.key in self._known

    def learn(self, stage: Stage, taken: int) -> None:
        """Take over what another process found out."""
        if (training := self._training(stage)) is not None:
            self._known[training.key] = taken

    def _training(self, stage: Stage) -> _Training | None:
        spec = stage_specs().find(stage.kind)
        settings = spec.settings_of(stage)
        recipe = spec.recipe(settings)
        if recipe is None or not self._data.train or not self._data.channels:  # not known, as in a replay
            return None
        teacher = student_of(stage.inputs["teacher"]) if "teacher" in stage.inputs else None
        distillation = getattr(settings, "distillation", Distillation())
        views = stage.inputs["logits"].parameters.get("views", 1) if "logits" in stage.inputs else 0
        bits = settings.quantization.bits if isinstance(recipe, QatRecipe) else 0
        return _Training(student_of(stage), recipe, distillation, teacher, views, bits)

    def _of(self, training: _Training) -> int:
        data, (student, recipe, distillation, teacher, views, bits) = self._data, training
        model = self._build(student)
        before = _PROCESS_BYTES + _bytes(model) + self._images * data.channels * data.size[0] * data.size[1]
        supervision = None
        if views or teacher is not None:
            stored = np.broadcast_to(np.float32(0), (views, data.train, data.classes)) if views else None
            network = None if teacher is None else self._build(teacher)
            kind = distillation.kind if network is not None and distillation.kind == "intermediate" else "logit"
            size = None if teacher is None else teacher.input_size
            supervision = Supervision(kind=kind, teacher=network, stored_logits=stored, teacher_input_size=size)
            before += (0 if stored is None else stored.nbytes) + (0 if network is None else _bytes(network))
        given: Any = {"input_size": student.input_size, "supervision": supervision, "before": before}
        if isinstance(recipe, QatRecipe):
            forecast = predict_qat_memory(model.eval(), data, recipe=recipe, bits=bits, **given)
        else:
            forecast = predict_memory(model, data, recipe=recipe, consume=True, **given)
        give_back()  # of the two steps that were made; the driver lives on
        return forecast.bytes(min(recipe.batch_size, data.train))

    def _build(self, student: Student) -> nn.Module:
        return build(student, channels=self._data.channels, classes=self._data.classes, folder=self._folder)


def _bytes(model: nn.Module) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in (*model.parameters(), *model.buffers()))
