"""A student that learns from a teacher: its logits (`_soft_targets.py`) and, with "intermediate", its feature maps:

    loss = the loss of the logits
         + beta * sum over stages of MSE(projection(student's features), teacher's features)      [intermediate only]

Self-distillation is the first line with a teacher of the student's own architecture, trained before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import (
    Augmentation,
    DataSet,
    Normalisation,
    View,
    answer_of,
    choose_augmentation,
    draw_view,
    mirrors_in_turn,
    prepare_tensor,
    seed_from,
    stored_images,
)
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.training._device import choose_device
from edgesearch.objectives.training._evaluation import predict_logits
from edgesearch.objectives.training._feature_stages import find_stages, match_stages
from edgesearch.objectives.training._features import Features, make_projections, stage_loss
from edgesearch.objectives.training._soft_targets import Second, SoftTargets, label_loss

__all__ = ["Batch", "Loss", "Supervision", "stored_view", "teacher_logits"]

Kind: TypeAlias = Literal["logit", "intermediate", "self", "nkd"]

#: Views for which logits are stored come from this seed, so that one teacher's logits serve students of every seed.
_VIEW_SEED = 0x7EAC


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Whom a student learns from beside the labels, and how.

    `alpha` weighs the labels, `temperature` softens both sides, `beta` weighs the stages. "nkd" has `gamma` and
    `nkd_temperature` instead.

    teacher: the network; for "self" an earlier network of the same architecture. May be left out where its logits are stored,
    except for "intermediate", which compares features.
    stored_logits: float32 (views, N, classes) from `teacher_logits` for the training images and the same augmentation.
    teacher_input_size: pixels of a side that the teacher reads; None for the student's.
    stages: pairs (student's module, teacher's module) whose outputs are compared; None finds them by their resolution.
    """

    kind: Kind = "logit"
    temperature: float = 4.0
    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 1.5
    nkd_temperature: float = 1.0
    teacher: nn.Module | None = None
    stored_logits: NDArray[np.float32] | None = None
    teacher_input_size: int | None = None
    stages: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TrainingError(f"distillation is {self.kind!r}; expected one of {', '.join(get_args(Kind))}")
        for temperature in (self.temperature, self.nkd_temperature):
            if not 0 < temperature < math.inf:
                raise TrainingError(f"the distillation temperature is {temperature}; expected a number above 0")
        for name, weight in (("beta", self.beta), ("gamma", self.gamma)):
            if not 0 <= weight < math.inf:
                raise TrainingError(f"{name}, a weight in distillation, is {weight}; expected 0 or more")
        if not 0 <= self.alpha <= 1:
            raise TrainingError(f"alpha, the weight of the labels in distillation, is {self.alpha}; expected 0 to 1")
        if self.teacher is None and (self.stored_logits is None or self.kind == "intermediate"):
            needed = "a teacher" if self.kind == "intermediate" else "a teacher or its stored logits"
            raise TrainingError(f"{self.kind} distillation needs {needed}")

    @property
    def soft_targets(self) -> SoftTargets:
        """The loss of the logits."""
        if self.kind == "nkd":
            return SoftTargets(kind="nkd", temperature=self.nkd_temperature, gamma=self.gamma)
        return SoftTargets(temperature=self.temperature, alpha=self.alpha)

    @property
    def compares_features(self) -> bool:
        """Whether the student's feature maps are compared with the teacher's."""
        return self.kind == "intermediate"

    def pairs(self, student: nn.Module, channels: int, input_size: tuple[int, int]) -> list[tuple[str, str]]:
        """The modules of student and teacher whose outputs are compared. `input_size` is the student's.

        Raises TrainingError where one of the two has no feature maps.
        """
        if self.stages is not None:
            return list(self.stages)
        assert self.teacher is not None
        theirs = find_stages(self.teacher, (channels, *self.teacher_size(input_size)))
        matched = match_stages(find_stages(student, (channels, *input_size)), theirs)
        return [(own[0], other[0]) for own, other in matched]

    def teacher_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the teacher reads where the student reads `input_size`."""
        return input_size if self.teacher_input_size is None else (self.teacher_input_size, self.teacher_input_size)


def stored_view(kind: Augmentation, count: int, size: tuple[int, int], number: int, *, strength: float = 1.0) -> View | None:
    """View `number` of those that logits are stored for.

    View 0 is the images as they are, unless they are mirrored in every other view: then it is the first of the alternation,
    which goes on from one round of the views to the next where their number is even.
    """
    if not number and not mirrors_in_turn(kind):
        return None
    seed = seed_from(_VIEW_SEED, number)
    return draw_view(kind, count, size, seed, mirror_seed=_VIEW_SEED, turn=number, strength=strength)


def teacher_logits(
    teacher: nn.Module,
    data: DataSet,
    *,
    input_size: int | None,
    augmentation: Augmentation | Literal["auto"] = "auto",
    strength: float = 1.0,
    views: int = 8,
    batch_size: int | None = 256,
    device: str = "auto",
    note: Callable[[str], object] = lambda line: None,
) -> NDArray[np.float32]:
    """The teacher's logits (views, N, classes) for fixed views of the training images, so that students need not run it.

    Without augmentation view 0 (see `stored_view`) is the only one. A student trained with these logits sees view
    `epoch % views` in each epoch, thus exactly the images that the teacher saw. `batch_size`, memory and `note` are as in
    `predict_logits`.
    """
    kind = choose_augmentation(augmentation, data.name)
    where = choose_device(device)
    teacher.to(where)
    images = stored_images(data.train.images, where)
    options: dict[str, Any] = {"input_size": input_size, "normalisation": data.normalisation}
    logits = [
        predict_logits(
            teacher,
            images,
            **options,
            batch_size=batch_size,
            device=where,
            view=stored_view(kind, len(images), data.size, number, strength=strength),
            note=note,
        )
        for number in range(views if kind != "none" else 1)
    ]
    return np.stack(logits)


@dataclass(frozen=True)
class Batch:
    """Part of a split: pixels uint8 (B, H, W, C), inputs float32 (B, C, H', W'), labels (B,).

    index: the images' places in the split (B,); where logits are stored, of the answers for all its views, one behind another.
    """

    pixels: Tensor
    inputs: Tensor
    labels: Tensor
    index: Tensor
    second: Second | None = None  # the other labels, where images are mixed


class Loss:
    """The loss of one training. It runs the student and, where it must, the teacher.

    `projections` holds what is trained besides the student; `close` takes the hooks off both networks.
    """

    def __init__(
        self,
        model: nn.Module,
        supervision: Supervision | None,
        *,
        data: DataSet,
        input_size: tuple[int, int],
        label_smoothing: float,
        device: torch.device,
        seed: int,
    ) -> None:
        self.projections: nn.ModuleList = nn.ModuleList()
        self._model, self._supervision, self._smoothing = model, supervision, label_smoothing
        self._normalisation: Normalisation = data.normalisation
        self._input_size = input_size
        self._stored: Tensor | None = None
        self._taps: tuple[Features, Features] | None = None
        if supervision is None:
            return
        if supervision.stored_logits is not None:
            self._stored = self._check_stored(supervision.stored_logits, data).to(device)
        if supervision.teacher is not None and (self._stored is None or supervision.compares_features):
            supervision.teacher.to(device).eval()
        if supervision.compares_features:
            self._attach(supervision, data.channels, device, seed)

    @property
    def views(self) -> int | None:
        """How many views the stored logits are for; None where any image may be shown."""
        return None if self._stored is None else len(self._stored)

    @staticmethod
    def _check_stored(logits: NDArray[np.float32], data: DataSet) -> Tensor:
        if logits.ndim != 3 or logits.shape[1:] != (len(data.train), len(data.classes)):
            raise TrainingError(
                f"the stored teacher logits have shape {logits.shape}; expected (views, {len(data.train)} training images, "
                f"{len(data.classes)} classes): were they made from another data set?"
            )
        if not np.isfinite(logits).all():
            raise TrainingError("the stored teacher logits hold NaN or infinity; train the teacher again")
        return torch.tensor(logits)

    def _teacher_size(self) -> tuple[int, int]:
        assert self._supervision is not None
        return self._supervision.teacher_size(self._input_size)

    def _attach(self, supervision: Supervision, channels: int, device: torch.device, seed: int) -> None:
        teacher = supervision.teacher
        assert teacher is not None
        pairs = supervision.pairs(self._model, channels, self._input_size)
        self._taps = (Features(self._model, [s for s, _ in pairs]), Features(teacher, [t for _, t in pairs]))
        with quiet(self._model), quiet(teacher):
            self._model(torch.zeros(1, channels, *self._input_size, device=device))
            teacher(torch.zeros(1, channels, *self._teacher_size(), device=device))
        maps = zip(*(tap.taken() for tap in self._taps), strict=True)
        both = [(ours.shape[1], theirs.shape[1]) for ours, theirs in maps]
        self.projections = make_projections(both, seed_from(seed, _VIEW_SEED)).to(device)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        logits = self._model(batch.inputs).float()
        how = self._supervision
        if how is None:
            return label_loss(logits, batch.labels, smoothing=self._smoothing, second=batch.second)
        soft = self._targets(batch, logits.shape[1])
        loss = how.soft_targets(logits, batch.labels, soft, smoothing=self._smoothing, second=batch.second)
        if self._taps is None:
            return loss
        return loss + how.beta * stage_loss(self.projections, *(tap.taken() for tap in self._taps))

    def _targets(self, batch: Batch, classes: int) -> Tensor:
        assert self._supervision is not None
        teacher = self._supervision.teacher
        answer: Tensor | None = None
        if teacher is not None and (self._stored is None or self._taps is not None):
            inputs = batch.inputs
            if self._teacher_size() != inputs.shape[2:]:  # the student may see smaller images for a while
                inputs = prepare_tensor(batch.pixels, self._teacher_size(), self._normalisation)
            with torch.no_grad():
                answer = answer_of(teacher, inputs).float()
            if answer.shape[1] != classes:
                raise TrainingError(f"the teacher tells {answer.shape[1]} classes apart and the student {classes}")
        if self._stored is not None:
            return self._stored.flatten(0, 1)[batch.index]
        assert answer is not None
        return answer

    def close(self) -> None:
        for tap in self._taps or ():
            tap.detach()
            tap.outputs.clear()
