"""A student that learns from a teacher (G. Hinton et al. 2015; hints from intermediate layers: A. Romero et al. 2015).

With z the student's logits and t the teacher's, at temperature T:

    loss = alpha * CE(z, label) + (1 - alpha) * T^2 * KL(softmax(t / T) || softmax(z / T))
         + beta * sum over stages of MSE(projection(student's features), teacher's features)      [intermediate only]

Self-distillation is the first line with a teacher of the student's own architecture, trained before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import (
    Augmentation,
    DataSet,
    Normalisation,
    View,
    choose_augmentation,
    draw_view,
    prepare_tensor,
    seed_from,
)
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.training._device import choose_device
from edgesearch.objectives.training._evaluation import predict_logits

__all__ = ["Batch", "Loss", "Supervision", "find_stages", "stored_view", "teacher_logits"]

#: Views for which logits are stored come from this seed, so that one teacher's logits serve students of every seed.
_VIEW_SEED = 0x7EAC
#: How many stages are compared unless they are named: the thesis compares three.
_STAGES = 3


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Whom a student learns from beside the labels, and how.

    `alpha` weighs the labels, `temperature` softens both sides, `beta` weighs the stages.

    teacher: the network; for "self" an earlier network of the same architecture. May be left out where its logits are stored,
    except for "intermediate", which compares features.
    stored_logits: float32 (views, N, classes) from `teacher_logits` for the training images and the same augmentation.
    teacher_input_size: pixels of a side that the teacher reads; None for the student's.
    stages: pairs (student's module, teacher's module) whose outputs are compared; None finds them by their resolution.
    """

    kind: Literal["logit", "intermediate", "self"] = "logit"
    temperature: float = 4.0
    alpha: float = 0.5
    beta: float = 0.5
    teacher: nn.Module | None = None
    stored_logits: NDArray[np.float32] | None = None
    teacher_input_size: int | None = None
    stages: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise TrainingError(f"the distillation temperature is {self.temperature}; expected a number above 0")
        if not 0 <= self.alpha <= 1:
            raise TrainingError(f"alpha, the weight of the labels in distillation, is {self.alpha}; expected 0 to 1")
        if self.teacher is None and (self.stored_logits is None or self.kind == "intermediate"):
            needed = "a teacher" if self.kind == "intermediate" else "a teacher or its stored logits"
            raise TrainingError(f"{self.kind} distillation needs {needed}")


def stored_view(kind: Augmentation, count: int, size: tuple[int, int], number: int) -> View | None:
    """View `number` of those that logits are stored for. View 0 is the images as they are."""
    if not number:
        return None
    return draw_view(kind, count, size, seed_from(_VIEW_SEED, number), mirror_seed=_VIEW_SEED, turn=number)


def teacher_logits(
    teacher: nn.Module,
    data: DataSet,
    *,
    input_size: int | None,
    augmentation: Augmentation | Literal["auto"] = "auto",
    views: int = 8,
    batch_size: int = 256,
    device: str = "auto",
) -> NDArray[np.float32]:
    """The teacher's logits (views, N, classes) for fixed views of the training images, so that students need not run it.

    View 0 is the images as they are; without augmentation it is the only one. A student trained with these logits sees view
    `epoch % views` in each epoch, thus exactly the images that the teacher saw.
    """
    kind = choose_augmentation(augmentation, data.name)
    where = choose_device(device)
    teacher.to(where)
    images = torch.tensor(data.train.images)
    options: dict[str, Any] = {"input_size": input_size, "normalisation": data.normalisation}
    logits = [
        predict_logits(
            teacher,
            images,
            **options,
            batch_size=batch_size,
            device=where,
            view=stored_view(kind, len(images), data.size, number),
        )
        for number in range(views if kind != "none" else 1)
    ]
    return np.stack(logits)


@dataclass(frozen=True)
class Batch:
    """Part of a split: pixels uint8 (B, H, W, C), inputs float32 (B, C, H', W'), labels and places in it (B,)."""

    pixels: Tensor
    inputs: Tensor
    labels: Tensor
    index: Tensor
    view: int  # number of the stored view


class _Features:
    """Keeps the last output of each of some modules, while it is attached to them."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise TrainingError(f"no module {missing[0]!r} in {type(model).__name__} to take features from")
        self.outputs: list[Tensor | None] = [None] * len(names)
        self._handles = [modules[name].register_forward_hook(self._keep(place)) for place, name in enumerate(names)]

    def _keep(self, place: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.outputs[place] = output

        return hook

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()


def find_stages(model: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[str, int, int]]:
    """(module, channels, height) of the last module at each resolution, in order of execution, without 1 x 1 outputs."""
    last: dict[tuple[int, ...], tuple[str, int, int]] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                last[tuple(output.shape[2:])] = (name, output.shape[1], output.shape[2])

        return hook

    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        with quiet(model):
            parameter = next(model.parameters())
            model(torch.zeros(1, *input_shape, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    return list(last.values())


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
        self._taps: tuple[_Features, _Features] | None = None
        if supervision is None:
            return
        if supervision.stored_logits is not None:
            self._stored = self._check_stored(supervision.stored_logits, data).to(device)
        if supervision.teacher is not None and (self._stored is None or supervision.kind == "intermediate"):
            supervision.teacher.to(device).eval()
        if supervision.kind == "intermediate":
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
        size = self._supervision.teacher_input_size
        return self._input_size if size is None else (size, size)

    def _attach(self, supervision: Supervision, channels: int, device: torch.device, seed: int) -> None:
        teacher = supervision.teacher
        assert teacher is not None
        of_student = find_stages(self._model, (channels, *self._input_size))
        of_teacher = find_stages(teacher, (channels, *self._teacher_size()))
        if supervision.stages is None:
            count = min(len(of_student), len(of_teacher), _STAGES)
            pairs = [(s[0], t[0]) for s, t in zip(of_student[-count:], of_teacher[-count:], strict=True)] if count else []
        else:
            pairs = list(supervision.stages)
        if not pairs:
            raise TrainingError(
                f"intermediate distillation compares feature maps, and {type(self._model).__name__} or "
                f"{type(teacher).__name__} has none; use logit distillation"
            )
        self._taps = (_Features(self._model, [s for s, _ in pairs]), _Features(teacher, [t for _, t in pairs]))
        with quiet(self._model), quiet(teacher):
            self._model(torch.zeros(1, channels, *self._input_size, device=device))
            teacher(torch.zeros(1, channels, *self._teacher_size(), device=device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from(seed, _VIEW_SEED))
            for (student_name, teacher_name), ours, theirs in zip(pairs, *(tap.outputs for tap in self._taps), strict=True):
                if ours is None or theirs is None or ours.ndim != 4 or theirs.ndim != 4:
                    raise TrainingError(f"{student_name!r} and {teacher_name!r} do not both give feature maps to compare")
                self.projections.append(nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False))
        self.projections.to(device)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        logits = self._model(batch.inputs).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._smoothing)
        how = self._supervision
        if how is None:
            return loss
        soft = self._targets(batch, logits.shape[1])
        divergence = F.kl_div(
            F.log_softmax(logits / how.temperature, 1),
            F.log_softmax(soft / how.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        loss = how.alpha * loss + (1 - how.alpha) * how.temperature**2 * divergence
        return loss if self._taps is None else loss + how.beta * self._stage_loss()

    def _targets(self, batch: Batch, classes: int) -> Tensor:
        assert self._supervision is not None
        teacher = self._supervision.teacher
        answer: Tensor | None = None
        if teacher is not None and (self._stored is None or self._taps is not None):
            inputs = batch.inputs
            if self._teacher_size() != self._input_size:
                inputs = prepare_tensor(batch.pixels, self._teacher_size(), self._normalisation)
            with torch.no_grad():
                answer = teacher(inputs).float()
            if answer.shape[1] != classes:
                raise TrainingError(f"the teacher tells {answer.shape[1]} classes apart and the student {classes}")
        if self._stored is not None:
            return self._stored[batch.view, batch.index]
        assert answer is not None
        return answer

    def _stage_loss(self) -> Tensor:
        assert self._taps is not None
        total: Tensor | None = None
        for projection, ours, theirs in zip(self.projections, *(tap.outputs for tap in self._taps), strict=True):
            assert ours is not None
            assert theirs is not None
            height, width = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
            pooled = F.adaptive_avg_pool2d(ours.float(), (height, width))
            target = F.adaptive_avg_pool2d(theirs.detach().float(), (height, width))
            term = F.mse_loss(projection(pooled).float(), target)
            total = term if total is None else total + term
        assert total is not None
        return total

    def close(self) -> None:
        for tap in self._taps or ():
            tap.detach()
            tap.outputs.clear()
