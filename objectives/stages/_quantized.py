"""The quantized stage: PTQ or QAT of a trained network, or float16 for analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgesearch.board_eval import Graph, lower
from edgesearch.objectives import quantization as quantizer
from edgesearch.objectives.data import DataSet, choose_augmentation, draw_view, prepare, prepare_tensor, seed_from, show
from edgesearch.objectives.stages._pipeline import QatRecipe
from edgesearch.objectives.training import Checkpoints, Distillation, evaluate, stored_view
from edgesearch.spaces import Quantization


def quantize_network(
    model: nn.Module,
    data: DataSet,
    *,
    quantization: Quantization,
    recipe: Mapping[str, Any] | None,
    scratch_epochs: int | None,
    input_size: int,
    seed: int,
    distillation: Distillation | None,
    checkpoints: Checkpoints,
    report: Callable[[str], None],
    device: str,
) -> tuple[Graph, dict[str, Any]]:
    """The quantized network, and the float network's validation accuracy among the figures.

    `scratch_epochs`: QAT of a network that was not trained before, for as long as a student's training.
    """
    shape = (data.channels, input_size, input_size)
    trained = scratch_epochs is None
    size, normalisation = input_size, data.normalisation
    accuracy = evaluate(model.eval(), data.validation, input_size=size, normalisation=normalisation) if trained else None
    figures = {"float_accuracy": accuracy, "bits": quantization.bits, "method": quantization.method}
    images = prepare(data.calibration.images, input_size, data.normalisation)
    if quantization.bits == 16:
        return quantizer.quantize_fp16(lower(model, shape)), figures
    if quantization.method == "ptq":
        return quantizer.quantize(
            lower(model, shape), images, method=quantization.algorithm, bits=quantization.bits, seed=seed
        ), figures
    settings = QatRecipe.model_validate(recipe)
    epochs = settings.epochs if trained else max(settings.epochs, scratch_epochs or 0)
    result = quantizer.train_qat(
        model,
        shape,
        _Batches(data, input_size, settings.batch_size, seed, distillation),
        images,
        quantizer.QatSettings(
            epochs=epochs,
            lr=settings.lr,
            stage_lrs=settings.stage_lrs,
            trained=trained,
            method=quantization.algorithm,
            bits=quantization.bits,
            temperature=distillation.temperature if distillation else 1.0,
            alpha=distillation.alpha if distillation else 1.0,
            seed=seed,
            device=device,
        ),
        checkpoints=checkpoints,
        on_epoch=lambda epoch, loss: report(f"QAT epoch {epoch}/{epochs}  loss {loss:.4f}"),
    )
    return result, figures


class _Batches:
    """Called with an epoch: its batches of images (B, C, S, S), labels (B,) and, when distilling, the teacher's logits."""

    def __init__(self, data: DataSet, input_size: int, batch_size: int, seed: int, distillation: Distillation | None) -> None:
        self._data, self._size, self._batch_size, self._seed = data, input_size, batch_size, seed
        self._images, self._labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        stored = distillation.stored_logits if distillation else None
        self._logits = None if stored is None else torch.from_numpy(stored)
        self._augmentation = choose_augmentation("auto", data.name)

    def __call__(self, epoch: int) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        count = len(self._images)
        generator = torch.Generator().manual_seed(seed_from(self._seed, epoch, 1))
        order = torch.randperm(count, generator=generator)
        if self._logits is not None:
            number = epoch % len(self._logits)
            view, logits = stored_view(self._augmentation, count, self._data.size, number), self._logits[number]
        else:
            view, logits = draw_view(self._augmentation, count, self._data.size, seed_from(self._seed, epoch, 2)), None
        for index in order.tensor_split(max(1, -(-count // self._batch_size))):
            pixels = show(self._images, view, index)
            inputs = prepare_tensor(pixels, self._size, self._data.normalisation)
            yield inputs, self._labels[index], None if logits is None else logits[index]
