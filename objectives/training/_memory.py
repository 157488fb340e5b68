"""How much memory a training takes, told before it starts from the shapes of its network, and measured when it is over.

    peak = the process before it                       interpreter, torch, the data set, weights, a teacher
         + what stays through the training             training images on a GPU, stored logits, one chunk of prepared
                                                       batches, what the optimizer remembers, a mean of weights
         + the most that is alive within a step        values kept for the way back, gradients (`_footprint.py`)

On a GPU the first is what lies there, and a whole batch is trained on and answered beforehand: what kernels take for themselves
depends on the GPU and on the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import full_float32
from edgesearch.objectives.data import DataSet, Split, blank_images, settle_layout
from edgesearch.objectives.pruning import copied, quiet
from edgesearch.objectives.training._batches import chunk_images
from edgesearch.objectives.training._cached_batch import PROBED, cached_batch
from edgesearch.objectives.training._device import choose_device, use_bfloat16
from edgesearch.objectives.training._distillation import Batch, Loss, Supervision
from edgesearch.objectives.training._evaluation import evaluation_batch
from edgesearch.objectives.training._footprint import PROBES, Footprint
from edgesearch.objectives.training._kernels import safe_kernels, same_every_time
from edgesearch.objectives.training._process import process_memory
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._recorded import clear_workspaces

__all__ = ["DataShape", "MemoryForecast", "predict_memory"]

#: What an optimizer remembers of each number that it trains. Muon's two layers by AdamW are small.
_REMEMBERED = {"sgd": 1, "muon": 1, "adam": 2, "adamw": 2}
#: Batches are halved down to so many images and no further: batch-norm's statistics are those of the pieces.
_LEAST_PIECE = 8
#: What whole batches bring into a process and two images do not: code of other kernels, weights in the layouts of oneDNN.
_KERNELS = 24 << 20


@dataclass(frozen=True)
class DataShape:
    """All of a data set that memory depends on. size: (height, width)."""

    train: int
    validation: int
    size: tuple[int, int]
    channels: int
    classes: int

    @classmethod
    def of(cls, data: DataSet) -> DataShape:
        """Of a data set that is there."""
        return cls(len(data.train), len(data.validation), data.size, data.channels, len(data.classes))

    def few(self) -> DataSet:
        """A data set of this shape with as few images as a footprint is taken with, all black."""
        count = PROBES[-1]
        split = Split(np.zeros((count, *self.size, self.channels), np.uint8), np.zeros(count, np.int64))
        classes = tuple(str(number) for number in range(self.classes))
        return DataSet("", classes, self.channels, self.size, split, split, split, split, "", {})


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes of a training on one device: there before it, there all through it, and coming and going."""

    before: int
    fixed: int
    step: Footprint
    answers: int  # the validation images'
    on_gpu: bool = False
    kernels: int = 0  # that those of a step take for themselves on a GPU, and nobody else sees

    def bytes(self, batch: int) -> int:
        """The peak where `batch` images are computed at a time."""
        return self.before + self.fixed + max(self._step(batch), self.answers)

    def pieces(self, batch: int, free: int) -> int:
        """In how many pieces, a power of two, a batch must be computed where `free` bytes are free beside those `before`.

        What answers to validation images take is no smaller for it, and does not count.
        """
        count = 1
        while self.fixed + self._step(-(-batch // count)) > free and batch // (2 * count) >= _LEAST_PIECE:
            count *= 2
        return count

    def _step(self, images: int) -> int:
        return self.step.peak(images, holes=not self.on_gpu) + self.kernels


def predict_memory(
    model: nn.Module,
    data: DataShape,
    *,
    recipe: Recipe,
    input_size: int | None,
    supervision: Supervision | None = None,
    device: str = "cpu",
    before: int | None = None,
    consume: bool = False,
) -> MemoryForecast:
    """What `train` with the same arguments will take in a stage's process; one that does not keep what it frees takes less.

    Two steps of a copy are computed, and `model` is not changed; of `model` itself with `consume`, which is of no use
    afterwards, and takes no memory for a copy.

    before: bytes that the process has before; None: those of this one, in which all but the training is there already.
    """
    place = choose_device(device)
    size = data.size if input_size is None else (input_size, input_size)
    probe = model if consume else copied(model)
    probe = probe.requires_grad_(True).to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    settle_layout(probe, blank_images(1, (data.channels, *size), place))
    bfloat16 = use_bfloat16(recipe.mixed_precision, model, (data.channels, *size), recipe.batch_size)
    there = torch.cuda.memory_allocated(place) if place.type == "cuda" else 0
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        step, kernels = _step(probe, data, size, recipe, supervision, place, bfloat16)
        answers = _answers(probe, data, size, place)
    trained, buffers = _bytes(probe.parameters()), _bytes(probe.buffers())
    del probe
    fixed = _through(data, size, recipe, supervision, trained, buffers, place)
    if place.type == "cuda":
        kept = max(0, torch.cuda.memory_allocated(place) - there)  # a teacher, and what cuBLAS takes for a stream
        clear_workspaces()
        is_there = next(model.parameters()).is_cuda
        weights = 0 if is_there else trained + buffers
        return MemoryForecast(there + weights, fixed + kept, step, answers, on_gpu=True, kernels=kernels)
    return MemoryForecast(process_memory() if before is None else before, fixed + _KERNELS, step, answers)


def _through(
    data: DataShape,
    size: tuple[int, int],
    recipe: Recipe,
    supervision: Supervision | None,
    trained: int,
    buffers: int,
    device: torch.device,
) -> int:
    """Bytes that are there from the first step to the last."""
    pixels, inputs = data.channels * data.size[0] * data.size[1], data.channels * size[0] * size[1]
    chunk = min(data.train, chunk_images(recipe.batch_size, data.channels, size, device)) * (4 * inputs + pixels)
    logits = 0 if supervision is None or supervision.stored_logits is None else supervision.stored_logits.nbytes
    average = 2 * (trained + buffers) if recipe.average_epochs else 0  # the mean, and the weights while it is looked at
    remembered = _REMEMBERED[recipe.optimizer] * trained
    images = data.train * ((0 if device.type == "cpu" else pixels) + 8)  # a CPU's are the data set's own; labels
    return images + logits + chunk + average + remembered


def _step(
    probe: nn.Module,
    data: DataShape,
    size: tuple[int, int],
    recipe: Recipe,
    supervision: Supervision | None,
    device: torch.device,
    bfloat16: bool,
) -> tuple[Footprint, int]:
    """Its footprint, and bytes that kernels take beside it."""
    few = data.few()
    if supervision is not None and supervision.stored_logits is not None:
        shape = (1, PROBES[-1], supervision.stored_logits.shape[-1])
        supervision = dataclasses.replace(supervision, stored_logits=np.zeros(shape, np.float32))
    loss = Loss(probe, supervision, data=few, input_size=size, label_smoothing=recipe.label_smoothing, device=device, seed=0)
    trained = (probe, loss.projections)
    there = [*trained, *([] if supervision is None or supervision.teacher is None else [supervision.teacher])]
    batches: list[Batch] = []

    def work(images: int) -> Callable[[], object]:
        pixels = torch.zeros(images, *data.size, data.channels, dtype=torch.uint8, device=device)
        labels, index = (torch.zeros(images, dtype=torch.long, device=device) for _ in range(2))
        batch = Batch(pixels, blank_images(images, (data.channels, *size), device), labels, index)
        batches.append(batch)
        for module in trained:
            module.train().zero_grad(set_to_none=True)

        def step() -> None:
            with safe_kernels(device), same_every_time():
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    value = loss(batch)
                value.backward()  # type: ignore[no-untyped-call]

        return step

    def known() -> list[Tensor]:
        batch = batches[-1]
        return [*_tensors(there), batch.pixels, batch.inputs, batch.labels, batch.index]

    try:
        footprint = Footprint(work, known)
        return footprint, _kernels(work, footprint, min(recipe.batch_size, data.train), device)
    finally:
        loss.close()
        for module in trained:
            module.zero_grad(set_to_none=True)


def _kernels(work: Callable[[int], Callable[[], object]], footprint: Footprint, images: int, device: torch.device) -> int:
    """Bytes of a GPU that work on so many images takes beside its footprint; 0 where memory does not suffice for it."""
    if device.type != "cuda":
        return 0
    try:
        prepared = work(images)
        prepared()  # cuBLAS takes its own
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        prepared()
    except torch.OutOfMemoryError:
        return 0
    return max(0, torch.cuda.max_memory_allocated(device) - before - footprint.peak(images, holes=False))


def _answers(probe: nn.Module, data: DataShape, size: tuple[int, int], device: torch.device) -> int:
    def work(images: int) -> Callable[[], object]:
        def answer() -> None:
            with quiet(probe):
                probe(blank_images(images, (data.channels, *size), device))

        return answer

    footprint = Footprint(work, lambda: list(_tensors([probe])))
    with quiet(probe):
        few = blank_images(PROBED, (data.channels, *size), device)
        images = min(data.validation, cached_batch(probe, few, evaluation_batch(size, data.channels)))
    peak = footprint.peak(images, holes=device.type == "cpu")
    with full_float32():
        return peak + _kernels(work, footprint, images, device)


def _tensors(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
