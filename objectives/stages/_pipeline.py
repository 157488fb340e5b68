"""From a candidate to the stages that make it: the teacher, the distilled student, pruned, quantized, measured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgesearch.objectives.data import DataSettings
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import Recipe
from edgesearch.spaces import Candidate, Student


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Teacher(_Settings):
    """The network that students are distilled from, and how it is trained; `epochs = 0` takes its weights as they are."""

    student: Student
    recipe: Recipe = Recipe()
    trained: bool = False


class QatRecipe(_Settings):
    """Quantization-aware training: `epochs` at a highest learning rate of `lr`.

    stage_lrs: factors on `lr` for equal parts of the layers, first to last.
    """

    epochs: int = Field(default=5, ge=1, le=1000)
    lr: float = Field(default=1e-3, gt=0, le=1)
    batch_size: int = Field(default=64, ge=2)
    stage_lrs: Annotated[tuple[Annotated[float, Field(ge=0, le=1000)], ...], Field(min_length=1)] = (1.0,)


class PruneSearch(_Settings):
    """How hard pruning looks: group-ratio vectors drawn (one_step), and how much is read to score one."""

    draws: int = Field(default=20, ge=1, le=10_000)
    score_images: int = Field(default=512, ge=16)
    recalibration_images: int = Field(default=512, ge=16)


class Pipeline(_Settings):
    """Everything beside the candidate that decides a result."""

    data: DataSettings = DataSettings()
    teacher: Teacher | None = None
    train: Recipe = Recipe()
    finetune: Recipe = Recipe(epochs=5, lr=1e-3)
    qat: QatRecipe = QatRecipe()
    prune: PruneSearch = PruneSearch()

    @model_validator(mode="after")
    def _sizes(self) -> Pipeline:
        if self.teacher is not None and self.teacher.trained and not self.teacher.student.weights:
            raise ValueError("teacher.trained = true needs teacher.weights = 'FILE' with the trained weights")
        return self


def plan(candidate: Candidate, pipeline: Pipeline, *, data: str, seed: int, board: dict[str, Any]) -> Stage:
    """The last stage of `candidate`; `Stage.walk` gives all before it. `data` is the data set's fingerprint.

    Raises ValueError if the candidate distils from a teacher and the pipeline has none.
    """
    candidate = candidate.canonical()
    make = _Maker(candidate, pipeline, data, seed)
    quantized = make.quantized()
    return make.stage("measured", {"board": board}, network=quantized)


def teacher_stage(pipeline: Pipeline, *, data: str, seed: int) -> Stage | None:
    """The teacher's stage, or None when the study has no teacher."""
    if pipeline.teacher is None:
        return None
    return Stage("teacher", pipeline.teacher.model_dump(mode="json"), seed, data)


class _Maker:
    """The stages of one candidate; each method makes one and what it needs."""

    def __init__(self, candidate: Candidate, pipeline: Pipeline, data: str, seed: int) -> None:
        self.candidate, self.pipeline, self.data, self.seed = candidate, pipeline, data, seed

    def stage(self, kind: Any, parameters: dict[str, Any], **inputs: Stage | None) -> Stage:
        return Stage(kind, parameters, self.seed, self.data, {role: s for role, s in inputs.items() if s is not None})

    def teacher(self) -> Stage | None:
        """Whom the student learns from: the teacher, or an earlier training of the same student."""
        kind = self.candidate.distillation.kind
        if kind == "none":
            return None
        if kind == "self":
            return self.plain_student()
        teacher = teacher_stage(self.pipeline, data=self.data, seed=self.seed)
        if teacher is None:
            raise ValueError(f"distillation = {kind!r} needs a [teacher] in the study")
        return teacher

    def logits(self) -> Stage | None:
        """The teacher's logits on the training images, computed once for all students that see the same images."""
        teacher = self.teacher()
        return None if teacher is None else self.stage("logits", {"train": self._recipe(self.pipeline.train)}, teacher=teacher)

    def plain_student(self) -> Stage:
        student = self.candidate.student.model_dump()
        return self.stage("student", {"student": student, "recipe": self._recipe(self.pipeline.train), "distillation": None})

    def student(self) -> Stage:
        distillation = self.candidate.distillation
        if distillation.kind == "none":
            return self.plain_student()
        parameters = {
            "student": self.candidate.student.model_dump(),
            "recipe": self._recipe(self.pipeline.train),
            "distillation": distillation.model_dump(),
        }
        teacher = self.teacher() if distillation.kind == "intermediate" else None
        return self.stage("student", parameters, logits=self.logits(), teacher=teacher)

    def pruned(self) -> Stage:
        pruning = self.candidate.pruning
        if pruning.method == "none":
            return self.student()
        parameters = {
            "pruning": pruning.model_dump(),
            "recipe": self._recipe(self.pipeline.finetune),
            "search": self.pipeline.prune.model_dump(),
            "distillation": self.candidate.distillation.model_dump() if self.teacher() else None,
        }
        sensitivity = self.sensitivity() if pruning.method == "iterative" else None
        return self.stage("pruned", parameters, network=self.student(), logits=self.logits(), sensitivity=sensitivity)

    def sensitivity(self) -> Stage:
        """How the student's accuracy falls as it loses channels: the same for every ratio that it is pruned to."""
        parameters = {
            "granularity": self.candidate.pruning.granularity,
            "score_images": self.pipeline.prune.score_images,
        }
        return self.stage("sensitivity", parameters, network=self.student())

    def quantized(self) -> Stage:
        quantization = self.candidate.quantization
        parameters: dict[str, Any] = {"quantization": quantization.model_dump()}
        if quantization.method == "ptq":
            return self.stage("quantized", parameters, network=self.pruned())
        parameters["recipe"] = self.pipeline.qat.model_dump()
        parameters["distillation"] = self.candidate.distillation.model_dump() if self.teacher() else None
        if quantization.start == "scratch":
            parameters["student"] = self.candidate.student.model_dump()
            parameters["train"] = self._recipe(self.pipeline.train)
            return self.stage("quantized", parameters, logits=self.logits())
        return self.stage("quantized", parameters, network=self.pruned(), logits=self.logits())

    @staticmethod
    def _recipe(recipe: Recipe) -> dict[str, Any]:
        return recipe.model_dump(mode="json")
