"""The quantized network: PTQ or QAT of a trained one, or float16 for analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from edgesearch.board_eval import Graph, graph_from_json, graph_to_json
from edgesearch.errors import SpaceError
from edgesearch.objectives import quantization as quantizer
from edgesearch.objectives.data import prepare
from edgesearch.objectives.stages._artifact import Artifact
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.stages._nndct import QatTask, quantize_by_nndct
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Parts, Result, StageSpec, TrainedSettings
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.training import STEP_PASSES, Training, evaluate
from edgesearch.plugins import is_import_path, load
from edgesearch.spaces import Quantization, Student

#: Passes of each calibration image that PTQ's time is worth, by its algorithm, and with any other; for estimates only.
_PASSES = {"best": 240}
_FEW_PASSES = 8


class QuantizedSettings(TrainedSettings):
    """How the network is quantized and, with QAT, trained. `student` is given where nothing trained it before.

    keep_zeros: whether the network's weights at zero stay there whatever the algorithm does to the others.
    norm_version: of the code that finds the positions of biases which a batch-norm goes into, where QAT may have one.
    relu6_version: of the code that trains the positions of values behind a ReLU6, where the network may have one.
    best_version: of the code of PTQ by "best", and of the scales that QAT starts from with it.
    vitis_version: of the code of PTQ by "vitis", where the network may have a batch-norm behind a linear layer.
    lowering_version: of the code that lowers networks of the user's own, which may change tensors in place.
    packages: versions of Vitis AI's, where its quantizer does it.
    """

    quantization: Quantization
    recipe: quantizer.QatRecipe | None = None
    student: Student | None = None
    keep_zeros: bool = False
    norm_version: int = 1
    relu6_version: int = 1
    best_version: int = 1
    vitis_version: int = 1
    lowering_version: int = 1
    packages: dict[str, str] = Field(default_factory=dict)


def _place(plan: Plan) -> Stage:
    quantization = plan.candidate.quantization
    network = plan.first("pruned", "student")
    if quantization.method == "ptq":
        settings = QuantizedSettings(
            quantization=quantization,
            keep_zeros=plan.candidate.pruning.sparse,
            best_version=_best_version(quantization),
            vitis_version=_vitis_version(plan.candidate.student, quantization),
            lowering_version=_lowering_version(plan.candidate.student, quantization),
            packages=_packages(plan),
        )
        return plan.make("quantized", settings, reads=("calibration", "validation"), network=network)
    scratch = quantization.start == "scratch"
    settings = QuantizedSettings(
        quantization=quantization,
        recipe=_recipe(plan),
        distillation=plan.distillation,
        student=plan.candidate.student if scratch else None,
        norm_version=_norm_version(plan.candidate.student, quantization),
        best_version=_best_start_version(quantization),
        relu6_version=_relu6_version(plan.candidate.student, quantization),
        lowering_version=_lowering_version(plan.candidate.student, quantization),
        packages=_packages(plan),
    )
    return plan.make(
        "quantized",
        settings,
        reads=("calibration", "train", "validation"),
        network=None if scratch else network,
        logits=plan.stage("logits"),
        teacher=plan.present() if quantization.backend == "edgesearch" else None,  # feature maps do not go to pytorch_nndct
    )


def _packages(plan: Plan) -> dict[str, str]:
    return dict(plan.conditions.packages) if plan.candidate.quantization.backend == "nndct" else {}


def _norm_version(student: Student, quantization: Quantization) -> int:
    may_have_one = student.architecture != "mlp"
    return 2 if may_have_one and quantization.backend == "edgesearch" else 1  # 1: those of the network before its training


def _relu6_version(student: Student, quantization: Quantization) -> int:
    may_have_one = student.architecture == "mobilenet_v2" or is_import_path(student.architecture)
    return 2 if may_have_one and quantization.backend == "edgesearch" else 1  # 1: what is clipped at 6 moved its position


def _best_version(quantization: Quantization) -> int:
    is_best = quantization.algorithm == "best" and quantization.backend == "edgesearch" and quantization.bits != 16
    # 1: what `vitis` makes of some of the images was its rival; 2: both were judged on single images alone; 3: biases in front
    # of a leaky ReLU, which networks of the user's own may have, were too fine for the compiler; 4: what is too small for the
    # finest grid stayed so
    return 5 if is_best else 1


def _best_start_version(quantization: Quantization) -> int:
    is_best = quantization.algorithm == "best" and quantization.backend == "edgesearch"
    return 2 if is_best else 1  # 1: what is too small for the finest grid stayed so


def _vitis_version(student: Student, quantization: Quantization) -> int:
    is_vitis = quantization.algorithm == "vitis" and quantization.backend == "edgesearch" and quantization.bits != 16
    return 2 if is_vitis and is_import_path(student.architecture) else 1  # 1: a batch-norm behind a linear layer was folded


def _lowering_version(student: Student, quantization: Quantization) -> int:
    is_own = quantization.backend == "edgesearch" and is_import_path(student.architecture)
    return 2 if is_own else 1  # 1: what was copied before it was changed in place was at times taken for what it became


def _recipe(plan: Plan) -> quantizer.QatRecipe:
    """The recipe of QAT without what has no effect; from scratch it is as long as a student's training."""
    quantization, recipe = plan.candidate.quantization, plan.pipeline.qat
    if quantization.backend == "nndct" and plan.mixes:
        raise SpaceError(
            f"pytorch_nndct trains on single images, and train.mix = {plan.pipeline.train.mix!r} mixes them; "
            "leave out `mix`, or quantize with backend 'edgesearch'"
        )
    if quantization.backend == "nndct":  # it trains in a way of its own
        recipe = quantizer.QatRecipe(epochs=recipe.epochs, lr=recipe.lr, batch_size=recipe.batch_size)
    if quantization.start == "scratch":
        recipe = recipe.model_copy(update={"epochs": max(recipe.epochs, plan.pipeline.train.epochs)})
    return plan.recipe(recipe).model_copy(update={"mixed_precision": "auto"})


def _run(context: Context[QuantizedSettings]) -> Result:
    settings, data = context.settings, context.data
    accuracy: float | None = None
    if settings.student is None:
        student, model = context.network("network")
        if context.stage.inputs["network"].kind == "pruned":  # perhaps by a study that had other limits
            context.hold_to_limits(model, student)
        accuracy = evaluate(
            model.eval(),
            data.validation,
            input_size=student.input_size,
            normalisation=data.normalisation,
            device=context.device,
            note=context.report,
        )
        model.cpu()
    else:
        student, model = settings.student, context.start(settings.student)
    more: dict[str, Any] = {}
    earlier = 0.0
    if settings.quantization.backend == "nndct":
        graph, more = _by_nndct(context, student, model)
    elif settings.recipe is not None:
        graph, training = _train(context, student, model, settings.recipe)
        earlier = training.earlier_seconds
        more = {
            "losses": [round(epoch.loss, 6) for epoch in training.history],
            "pieces": training.pieces,
            "predicted_bytes": training.predicted_bytes,
            "peak_bytes": training.peak_bytes,
        }
    else:
        graph = _quantize(context, student, model)
    network, arrays = graph_to_json(graph)
    figures = {
        "float_accuracy": accuracy,
        "bits": settings.quantization.bits,
        "method": settings.quantization.method,
        "network": network,
        **more,
        **context.taught_by(settings.distillation),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return Result(figures, {"weights": tensors}, earlier_seconds=earlier)


def _quantize(context: Context[QuantizedSettings], student: Student, model: nn.Module) -> Graph:
    settings, data, size = context.settings, context.data, student.input_size
    quantization = settings.quantization
    if quantization.bits == 16:
        return quantizer.quantize_fp16(context.lower(model, student))
    images = prepare(data.calibration.images, size, data.normalisation)
    algorithm = quantization.algorithm
    if is_import_path(algorithm):  # it must be the code whose checksum is in the key
        load(algorithm, folder=context.folder, noun="quantizer", expected_sha256=quantization.source_sha256)
    exact = context.lower(model, student)
    quantized = quantizer.quantize(
        exact,
        images,
        method=quantization.algorithm,
        bits=quantization.bits,
        seed=context.seed,
        device=context.device,
        folder=context.folder,
    )
    return quantizer.with_zeros_of(exact, quantized) if context.settings.keep_zeros else quantized


def _train(
    context: Context[QuantizedSettings], student: Student, model: nn.Module, recipe: quantizer.QatRecipe
) -> tuple[Graph, Training]:
    """The network that QAT makes, and its training."""
    settings, quantization = context.settings, context.settings.quantization
    qat = quantizer.train_qat(
        model,
        context.data,
        recipe=recipe,
        input_size=student.input_size,
        seed=context.seed,
        settings=quantizer.QatSettings(trained=settings.student is None, method=quantization.algorithm, bits=quantization.bits),
        supervision=context.supervision(settings.distillation),
        checkpoints=context.store.checkpoints(context.stage.key),
        on_epoch=lambda epoch, loss: context.report(f"QAT epoch {epoch}/{recipe.epochs}  loss {loss:.4f}"),
        device=context.device,
        note=context.report,
        pieces=context.pieces,
        target=None,  # see `Context.lower`
    )
    return qat.graph, qat.training


def _by_nndct(context: Context[QuantizedSettings], student: Student, model: nn.Module) -> tuple[Graph, dict[str, Any]]:
    settings, qat = context.settings, None
    if settings.recipe is not None:
        supervision = context.supervision(settings.distillation)
        qat = QatTask(settings.recipe, supervision, trained=settings.student is None)
    return quantize_by_nndct(context, student, model, fast_finetune=settings.quantization.fast_finetune, qat=qat)


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


def _own_recipe(settings: QuantizedSettings) -> quantizer.QatRecipe | None:
    return settings.recipe if settings.quantization.backend == "edgesearch" else None  # else another process trains


SPEC = StageSpec(
    name="quantized",
    version=7,
    settings=QuantizedSettings,
    place=_place,
    run=_run,
    images=_images,
    recipe=_own_recipe,  # of the whole network, as where what is left of a pruned one is fine-tuned
)
