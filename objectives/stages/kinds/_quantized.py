"""The quantized network: PTQ or QAT of a trained one, or float16 for analysis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesearch.board_eval import Graph, graph_from_json, graph_to_json, lower
from edgesearch.objectives import quantization as quantizer
from edgesearch.objectives.data import Augmentation, DataSet, draw_view, prepare, prepare_tensor, seed_from, show
from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._nndct import QatTask, quantize_by_nndct
from edgesearch.objectives.stages._pipeline import QatRecipe
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import (
    STEP_PASSES,
    FeatureTeacher,
    Hints,
    SoftTargets,
    Supervision,
    evaluate,
    stored_view,
)
from edgesearch.plugins import is_import_path, load
from edgesearch.spaces import Distillation, Quantization, Settings, Student

#: Passes of each calibration image that PTQ's time is worth, by its algorithm, and with any other; for estimates only.
_PASSES = {"best": 240}
_FEW_PASSES = 8


class QuantizedSettings(Settings):
    """How the network is quantized and, with QAT, trained. `student` is given where nothing trained it before."""

    quantization: Quantization
    recipe: QatRecipe | None = None
    augmentation: Augmentation = "none"
    distillation: Distillation = Distillation()
    student: Student | None = None


def _place(plan: Plan) -> Stage:
    quantization = plan.candidate.quantization
    network = plan.first("pruned", "student")
    if quantization.method == "ptq":
        settings = QuantizedSettings(quantization=quantization)
        return plan.make("quantized", settings, reads=("calibration", "validation"), network=network)
    scratch = quantization.start == "scratch"
    recipe = plan.pipeline.qat
    if scratch:  # as long as a student is trained
        recipe = recipe.model_copy(update={"epochs": max(recipe.epochs, plan.pipeline.train.epochs)})
    settings = QuantizedSettings(
        quantization=quantization,
        recipe=recipe,
        augmentation=plan.conditions.views,
        distillation=plan.distillation,
        student=plan.candidate.student if scratch else None,
    )
    return plan.make(
        "quantized",
        settings,
        reads=("calibration", "train", "validation"),
        network=None if scratch else network,
        logits=plan.stage("logits"),
        teacher=plan.compared() if quantization.backend == "edgesearch" else None,  # feature maps do not go to pytorch_nndct
    )


def _run(context: Context[QuantizedSettings]) -> Result:
    settings, data = context.settings, context.data
    accuracy: float | None = None
    if settings.student is None:
        student, model = context.network("network")
        accuracy = evaluate(
            model.eval(),
            data.validation,
            input_size=student.input_size,
            normalisation=data.normalisation,
            device=context.device,
        )
        model.cpu()
    else:
        student, model = settings.student, context.start(settings.student)
    compared: dict[str, Any] = {}
    if settings.quantization.backend == "nndct":
        graph, compared = _by_nndct(context, student, model)
    else:
        graph = _quantize(context, student, model)
    network, arrays = graph_to_json(graph)
    figures = {
        "float_accuracy": accuracy,
        "bits": settings.quantization.bits,
        "method": settings.quantization.method,
        "network": network,
        **compared,
        **context.taught_by(settings.distillation),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return Result(figures, {"weights": tensors})


def _quantize(context: Context[QuantizedSettings], student: Student, model: nn.Module) -> Graph:
    settings, data, size = context.settings, context.data, student.input_size
    quantization, shape = settings.quantization, (data.channels, size, size)
    if quantization.bits == 16:
        return quantizer.quantize_fp16(lower(model, shape))
    images = prepare(data.calibration.images, size, data.normalisation)
    if quantization.method == "ptq":
        algorithm = quantization.algorithm
        if is_import_path(algorithm):  # it must be the code that the key speaks of
            load(algorithm, folder=context.folder, noun="quantizer", expected_sha256=quantization.source_sha256)
        return quantizer.quantize(
            lower(model, shape),
            images,
            method=quantization.algorithm,
            bits=quantization.bits,
            seed=context.seed,
            device=context.device,
            folder=context.folder,
        )
    recipe = settings.recipe
    assert recipe is not None  # a plan gives one with QAT
    supervision = context.supervision(settings.distillation)
    batches = QatBatches(data, size, recipe.batch_size, context.seed, settings.augmentation, supervision, device=context.device)
    soft = supervision.soft_targets if supervision else SoftTargets(temperature=1.0, alpha=1.0)
    return quantizer.train_qat(
        model,
        shape,
        batches,
        images,
        quantizer.QatSettings(
            epochs=recipe.epochs,
            lr=recipe.lr,
            stage_lrs=recipe.stage_lrs,
            trained=settings.student is None,
            method=quantization.algorithm,
            bits=quantization.bits,
            loss=soft.kind,
            temperature=soft.temperature,
            alpha=soft.alpha,
            gamma=soft.gamma,
            seed=context.seed,
            device=context.device,
        ),
        hints=batches.hints,
        checkpoints=context.store.checkpoints(context.stage.key),
        on_epoch=lambda epoch, loss: context.report(f"QAT epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"),
    )


def _by_nndct(context: Context[QuantizedSettings], student: Student, model: nn.Module) -> tuple[Graph, dict[str, Any]]:
    settings, qat = context.settings, None
    if settings.recipe is not None:
        supervision = context.supervision(settings.distillation)
        qat = QatTask(settings.recipe, settings.augmentation, supervision, trained=settings.student is None)
    return quantize_by_nndct(context, student, model, fast_finetune=settings.quantization.fast_finetune, qat=qat)


class QatBatches:
    """Called with an epoch: its batches of images (B, C, S, S), labels (B,) and, when distilling, what the teacher says.

    `hints`: the teacher's stages whose feature maps come with each batch; None where its logits, or the labels, count alone.
    """

    def __init__(
        self,
        data: DataSet,
        input_size: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        supervision: Supervision | None,
        *,
        device: str = "cpu",
    ) -> None:
        self._data, self._size, self._batch_size, self._seed = data, input_size, batch_size, seed
        self._images, self._labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        stored = supervision.stored_logits if supervision else None
        self._logits = None if stored is None else torch.from_numpy(stored)
        self._augmentation: Augmentation = augmentation
        self.hints: Hints | None = None
        self._features: FeatureTeacher | None = None
        if supervision is not None and supervision.compares_features:
            assert supervision.teacher is not None  # a supervision that compares features has one
            self._features = FeatureTeacher(
                supervision.teacher,
                channels=data.channels,
                size=(input_size, input_size),
                teacher_size=supervision.teacher_input_size,
                normalisation=data.normalisation,
                device=device,
            )
            self.hints = Hints(self._features.stages, supervision.beta)

    def __call__(self, epoch: int) -> Iterable[quantizer.QatBatch]:
        count = len(self._images)
        generator = torch.Generator().manual_seed(seed_from(self._seed, epoch, 1))
        order = torch.randperm(count, generator=generator)
        if self._logits is not None:
            number = epoch % len(self._logits)
            view, logits = stored_view(self._augmentation, count, self._data.size, number), self._logits[number]
        else:
            seed = seed_from(self._seed, epoch, 2)
            view, logits = draw_view(self._augmentation, count, self._data.size, seed, mirror_seed=self._seed, turn=epoch), None
        for index in order.tensor_split(max(1, -(-count // self._batch_size))):
            pixels = show(self._images, view, index)
            inputs = prepare_tensor(pixels, self._size, self._data.normalisation)
            features = () if self._features is None else self._features(pixels, inputs)
            yield quantizer.QatBatch(inputs, self._labels[index], None if logits is None else logits[index], features)


def load_graph(artifact: Artifact) -> Graph:
    """The quantized network of a "quantized" artifact."""
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in artifact.tensors("weights").items()}
    return graph_from_json(artifact.figures["network"], arrays)


def _images(settings: QuantizedSettings, data: Parts) -> float:
    passes = _PASSES.get(settings.quantization.algorithm, _FEW_PASSES) if settings.quantization.bits != 16 else 0
    if settings.recipe is None:
        return float(passes * len(data.calibration) + len(data.validation))
    # Fake quantization doubles a step, and QAT begins with the grids of PTQ: about half of what that takes.
    return 2.0 * STEP_PASSES * settings.recipe.epochs * len(data.train) + passes / 2 * len(data.calibration)


SPEC = StageSpec(name="quantized", version=6, settings=QuantizedSettings, place=_place, run=_run, images=_images)
