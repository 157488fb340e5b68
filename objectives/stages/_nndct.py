"""The quantized stage in Vitis AI's own Python, and how what comes back differs from this program's account of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesearch.board_eval import Graph
from edgesearch.objectives import quantization as quantizer
from edgesearch.objectives.data import prepare, show, stored_images
from edgesearch.objectives.stages._context import Context
from edgesearch.objectives.training import SoftTargets, Supervision, epoch_order, epoch_view
from edgesearch.objectives.vitis import compare_graphs
from edgesearch.spaces import Student

#: Views of the training images that are written for a training, at most, and the bytes that they may take together.
_VIEWS, _VIEW_BYTES = 4, 8 << 30
#: Images that two networks answer.
_COMPARED = 100


@dataclass(frozen=True)
class QatTask:
    """A training with quantization: its recipe, who teaches, and whether the network is trained."""

    recipe: quantizer.QatRecipe
    supervision: Supervision | None
    trained: bool = True


def quantize_by_nndct(
    context: Context[Any], student: Student, model: nn.Module, *, fast_finetune: bool, qat: QatTask | None
) -> tuple[Graph, dict[str, Any]]:
    """The network that pytorch_nndct quantized, by PTQ or, where `qat` is given, by QAT; and figures on it.

    Its figures compare it with what `algorithm = "vitis"` makes of the same float weights (with QAT, of those that were
    trained): fix positions, integers and answers that differ, and the accuracy of both on the validation images.
    """
    from edgesearch.objectives.stages.kinds import accuracy_of  # which reads what this stage makes

    data, size = context.data, student.input_size
    shape = (data.channels, size, size)
    images = prepare(data.calibration.images, size, data.normalisation)
    context.report("pytorch_nndct quantizes in Vitis AI's Python")
    common: dict[str, Any] = {
        "seed": context.seed,
        "target": None,  # see `Context.lower`
        "packages": context.settings.packages,
    }
    if qat is None:
        made = quantizer.quantize_nndct(model, shape, images, context.vitis, fast_finetune=fast_finetune, **common)
    else:
        made = quantizer.train_nndct(model, shape, images, _training(context, qat), context.vitis, **common)
    ours = quantizer.quantize(context.lower(made.model.cpu(), student), images, method="vitis")
    difference = compare_graphs(ours, made.graph, images[:_COMPARED])
    accuracies = [accuracy_of(graph, data.validation, data, device=context.device) for graph in (made.graph, ours)]
    context.report(
        f"pytorch_nndct: {accuracies[0]:.2%}, algorithm 'vitis': {accuracies[1]:.2%}; "
        f"{difference.positions_differ} of {difference.positions} fix positions differ, "
        f"{difference.integers_differ} of {difference.integers:,} integers, "
        f"{difference.answers_differ} of {difference.images} answers"
    )
    return made.graph, {
        "nndct_accuracy": accuracies[0],
        "vitis_accuracy": accuracies[1],
        "difference": difference.figures(),
        "losses": list(made.losses),
        "versions": made.versions,
    }


def compared_figures(figures: Any) -> dict[str, float]:
    """What a trial's figures say of a network that pytorch_nndct quantized; nothing of another one."""
    if "difference" not in figures:
        return {}
    difference = figures["difference"]
    counts = {f"{name}_differ": float(difference[f"{name}_differ"]) for name in ("positions", "integers", "answers")}
    return {"vitis_accuracy": figures["vitis_accuracy"], **counts}


def _training(context: Context[Any], qat: QatTask) -> quantizer.NndctTraining:
    """The images of a training as they are written for it, in the order in which this program's own would show them."""
    data, seed, recipe, supervision = context.data, context.seed, qat.recipe, qat.supervision
    count, stored = len(data.train), supervision.stored_logits if supervision else None
    pixels = stored_images(data.train.images)

    def shown(number: int) -> torch.Tensor:
        view, _ = epoch_view(recipe, data, seed, number, None if stored is None else len(stored))
        return show(pixels, view, torch.arange(count))

    soft = supervision.soft_targets if supervision else SoftTargets(temperature=1.0, alpha=1.0)
    views = len(stored) if stored is not None else min(recipe.epochs, _VIEWS) if recipe.augmentation != "none" else 1
    return quantizer.NndctTraining(
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        size=data.size,
        labels=data.train.labels.astype(np.int64),
        order=torch.stack([epoch_order(count, seed, epoch) for epoch in range(recipe.epochs)]).numpy().astype(np.int32),
        views=max(1, min(views, _VIEW_BYTES // data.train.images.nbytes)),
        pixels=lambda number: shown(number).numpy(),
        logits=None if stored is None else lambda number: stored[number],
        mean=data.normalisation.mean,
        std=data.normalisation.std,
        loss=soft.kind,
        temperature=soft.temperature,
        alpha=soft.alpha,
        gamma=soft.gamma,
        trained=qat.trained,
        device=context.device,
    )
