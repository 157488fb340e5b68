"""What every stage runs with, and what several kinds of stages do alike: read inputs, build and train networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from edgesearch.board_eval import BoardReference, Graph, VitisSettings, lower
from edgesearch.errors import SpaceError, StoreError
from edgesearch.objectives.data import DataSet
from edgesearch.objectives.pruning import resize_to
from edgesearch.objectives.stages._artifact import Artifact, ArtifactStore
from edgesearch.objectives.stages._limits import NetworkLimits
from edgesearch.objectives.stages._outputs import check_is_its_state, check_outputs
from edgesearch.objectives.stages._spec import S
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages._starts import normalisation_warning
from edgesearch.objectives.training import Recipe, Supervision, Training, seed_numbers, train
from edgesearch.plugins import is_import_path
from edgesearch.spaces import Distillation, Student, build, load_weights, weights_fingerprint


@dataclass(frozen=True)
class Context(Generic[S]):
    """One stage about to run. `device` is resolved ("cpu", "cuda"); the user's own code is looked for in `folder` first.

    `board` is the one that a stage which needs a board was given. `vitis` says where Vitis AI's tools are on the machines that
    stages run on, and decides nothing of their results. `limits` end a stage whose network breaks one. `pieces`: that each
    batch is computed in at least, since memory did not suffice for fewer.
    """

    stage: Stage
    settings: S
    store: ArtifactStore
    data: DataSet
    device: str
    report: Callable[[str], None]
    folder: Path | None = None
    board: BoardReference | None = None
    vitis: VitisSettings = field(default_factory=VitisSettings)
    limits: NetworkLimits | None = None
    pieces: int = 1

    @property
    def seed(self) -> int:
        """Of this stage's random numbers."""
        return self.stage.random_seed

    def input(self, role: str) -> Artifact:
        """The artifact of an input; raises StoreError when it is not there or damaged."""
        stage = self.stage.inputs[role]
        artifact = self.store.get(stage.kind, stage.key)
        if artifact is None:
            raise StoreError(
                f"input {stage.kind}/{stage.key[:12]} of stage {self.stage.kind} is not in the store; run the command again"
            )
        return artifact

    def build(self, student: Student) -> nn.Module:
        """The untrained network of a student for this data set."""
        return build(student, channels=self.data.channels, classes=len(self.data.classes), folder=self.folder)

    def start(self, student: Student, *, require_all: bool = False) -> nn.Module:
        """The network as its training starts: random by this stage's seed, then the student's weights where it has any.

        Raises SpaceError where the weights file is not the one of the key or does not fit (see `load_weights`),
        and for a network of the user's own that does not tell the data set's classes apart.
        """
        if student.weights_sha256 and weights_fingerprint(student.weights) != student.weights_sha256:
            raise SpaceError(
                f"the weights file {student.weights!r} changed while the study ran; what was begun with it before cannot go "
                "on, and new trials take it as it is now"
            )
        seed_numbers(self.seed)  # the random start of the layers
        model = self.build(student)
        if is_import_path(student.architecture):
            check_outputs(model, student, channels=self.data.channels, classes=len(self.data.classes), trains=not require_all)
            check_is_its_state(lambda: self.build(student), student, channels=self.data.channels)
        loaded = load_weights(model, student, require_all=require_all, note=self.report)
        if student.weights:
            self.report(str(loaded))
        if warning := normalisation_warning(student, self.data.normalisation, self.data.channels):
            self.report(f"warning: {warning}")
        return model

    def network(self, role: str) -> tuple[Student, nn.Module]:
        """A trained network among the inputs, on this stage's device, and the student settings it was built from."""
        student = student_of(self.stage.inputs[role])
        model = resize_to(self.build(student), self.input(role).tensors("weights"))
        return student, model.to(self.device)

    def lower(self, model: nn.Module, student: Student) -> Graph:
        """The network as a DPU sees it, of whatever size that is: the key of what is made of it has none.

        The study's own DPU was asked before anything was trained (see `Estimator`).
        """
        return lower(model, (self.data.channels, student.input_size, student.input_size), target=None)

    def hold_to_limits(self, model: nn.Module, student: Student) -> None:
        """Raise Infeasible where the network, whose channels are chosen, breaks a limit of the study."""
        if self.limits is not None:
            size = student.input_size
            self.limits.check(model, (self.data.channels, size, size), folder=self.folder)

    def train(
        self,
        model: nn.Module,
        student: Student,
        recipe: Recipe,
        supervision: Supervision | None,
        *,
        stop_after: int | None = None,
    ) -> tuple[Training, dict[str, Any]]:
        """Train the network, going on from this stage's checkpoint; the training and its figures.

        It ends with its recipe, or once `stop_after` epochs of that are done and saved.
        """
        training = train(
            model,
            self.data,
            recipe=recipe,
            input_size=student.input_size,
            seed=self.seed,
            supervision=supervision,
            checkpoints=self.store.checkpoints(self.stage.key),
            stop_after=stop_after,
            on_epoch=lambda epoch, loss: self.report(f"epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"),
            device=self.device,
            note=self.report,
            pieces=self.pieces,
        )
        figures = asdict(training)
        del figures["earlier_seconds"]  # they count to the stage's own
        figures["history"] = [[round(e["loss"], 6), e["accuracy"], round(e["seconds"], 3)] for e in figures["history"]]
        return training, figures

    def supervision(self, settings: Distillation) -> Supervision | None:
        """What a student is taught with: the stored logits of its teacher, the teacher itself, or both."""
        if settings.kind == "none":
            return None
        stored = self.input("logits").tensors("logits")["logits"].numpy() if "logits" in self.stage.inputs else None
        teacher: nn.Module | None = None
        size: int | None = None
        kind = settings.kind
        if "teacher" in self.stage.inputs:
            student, teacher = self.network("teacher")
            size = student.input_size
        elif kind == "intermediate":
            kind = "logit"  # Vitis AI's own training is given logits alone; `taught_by` records it
        return Supervision(
            kind=kind,
            temperature=settings.temperature,
            alpha=settings.alpha,
            beta=settings.beta,
            gamma=settings.gamma,
            nkd_temperature=settings.nkd_temperature,
            teacher=teacher,
            stored_logits=stored,
            teacher_input_size=size,
        )

    def taught_by(self, settings: Distillation) -> dict[str, str]:
        """What a network was taught with beside the labels, as a figure; nothing where this stage has no teacher."""
        if not {"logits", "teacher"} & self.stage.inputs.keys():
            return {}
        features = settings.kind == "intermediate" and "teacher" in self.stage.inputs
        return {"taught_by": "logits and features" if features else "logits"}


def student_of(stage: Stage) -> Student:
    """The student settings behind a stage that has a network."""
    if "student" in stage.parameters:
        return Student.model_validate(stage.parameters["student"])
    return student_of(stage.inputs["network"])


def weights_of(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """A network's weights as the tensors of a result."""
    return {"weights": dict(model.state_dict())}
