"""The pruned student: channels removed in one step or several, then all of it fine-tuned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesearch.objectives.data import DataSet, prepare_tensor
from edgesearch.objectives.pruning import (
    PRUNERS,
    Pruned,
    PruningImages,
    PruningTask,
    Sensitivity,
    prune_with_vai,
    re_estimate_batch_norm,
)
from edgesearch.objectives.stages._context import Context, weights_of
from edgesearch.objectives.stages._pipeline import PruneSearch
from edgesearch.objectives.stages._plan import Plan
from edgesearch.objectives.stages._spec import Result, StageSpec
from edgesearch.objectives.stages._stage import Stage
from edgesearch.objectives.stages.kinds._sensitivity import scoring
from edgesearch.objectives.training import STEP_PASSES, Recipe, Supervision, Training, train
from edgesearch.spaces import Distillation, Pruning, Settings, Student


class PrunedSettings(Settings):
    """How much goes and how, how hard it is looked for, and the fine-tuning behind it."""

    pruning: Pruning
    recipe: Recipe
    search: PruneSearch = PruneSearch()
    distillation: Distillation = Distillation()


def _place(plan: Plan) -> Stage | None:
    if plan.candidate.pruning.method == "none":
        return None
    settings = PrunedSettings(
        pruning=plan.candidate.pruning,
        recipe=plan.recipe(plan.pipeline.finetune),
        search=plan.pipeline.prune,
        distillation=plan.distillation,
    )
    return plan.make(
        "pruned",
        settings,
        reads=("train", "validation"),
        network=plan.stage("student"),
        logits=plan.stage("logits"),
        sensitivity=plan.stage("sensitivity"),
    )


def _run(context: Context[PrunedSettings]) -> Result:
    settings = context.settings
    student, model = context.network("network")
    supervision = context.supervision(settings.distillation)
    pruned = _prune(context, student, model, supervision)
    context.report(f"pruned {pruned.reached_ratio:.1%} of the MACs ({pruned.macs_before:,} -> {pruned.macs_after:,})")
    training, _ = context.train(pruned.model, student, settings.recipe, supervision)
    return Result(_figures(pruned, training), weights_of(pruned.model))


def _prune(context: Context[PrunedSettings], student: Student, model: nn.Module, supervision: Supervision | None) -> Pruned:
    """The network without the channels that go; `model` stays as it is."""
    settings, data, size = context.settings, context.data, student.input_size
    pruning = settings.pruning
    assert pruning.granularity is not None  # a plan fills it in
    pixels = torch.from_numpy(data.train.images[-settings.search.recalibration_images :])
    images = prepare_tensor(pixels, size, data.normalisation)

    def fine_tune(network: nn.Module, step: int) -> None:
        train(
            network,
            data,
            recipe=_shorter(settings.recipe, pruning.steps),
            input_size=size,
            seed=context.seed + step + 1,
            supervision=supervision,
            device=context.device,
        )
        network.to(context.device)

    task = PruningTask(
        model=model.eval(),
        input_shape=(data.channels, size, size),
        ratio=pruning.ratio,
        granularity=pruning.granularity,
        draws=settings.search.draws,
        steps=pruning.steps,
        score=scoring(data, size, settings.search.score_images, context.device),
        recalibrate=lambda network: re_estimate_batch_norm(network, images),
        finetune=fine_tune,
        seed=context.seed,
        sensitivity=_sensitivity(context),
    )
    if pruning.backend == "vai":
        return _prune_with_vai(context, task, images)
    pruner = PRUNERS.find(pruning.method, folder=context.folder, expected_sha256=pruning.source_sha256)
    return pruner(task)


def _prune_with_vai(context: Context[PrunedSettings], task: PruningTask, recalibration: Tensor) -> Pruned:
    """The same by Vitis AI's optimizer, which is handed the images that networks are scored on."""
    settings, data, size = context.settings, context.data, task.input_shape[1]
    count = settings.search.score_images
    scored = prepare_tensor(torch.from_numpy(data.train.images[:count]), size, data.normalisation)
    images = PruningImages(
        scored.contiguous().numpy(), data.train.labels[:count].astype(np.int64), recalibration.contiguous().numpy()
    )
    method: Any = settings.pruning.method
    context.report(f"Vitis AI's optimizer prunes ({method})")
    return prune_with_vai(task, method, images, context.vitis)


def _sensitivity(context: Context[PrunedSettings]) -> Sensitivity | None:
    if "sensitivity" not in context.stage.inputs:
        return None
    figures = context.input("sensitivity").figures
    curves = {name: tuple((int(kept), float(score)) for kept, score in curve) for name, curve in figures["curves"].items()}
    return Sensitivity(figures["accuracy"], curves)


def _shorter(recipe: Recipe, parts: int) -> Recipe:
    """The recipe with its epochs shared between the rounds of iterative pruning, at least one each."""
    epochs = max(1, recipe.epochs // parts)
    return recipe.model_copy(update={"epochs": epochs, "warmup_epochs": min(recipe.warmup_epochs, epochs)})


def _figures(pruned: Pruned, training: Training) -> dict[str, Any]:
    return {
        "asked_ratio": pruned.asked_ratio,
        "reached_ratio": pruned.reached_ratio,
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "channels": dict(pruned.channels),
        "accuracy": training.accuracy,
        "epochs_done": training.epochs_done,
        "frozen_parameters": training.frozen_parameters,
    }


def _images(settings: PrunedSettings, data: DataSet) -> float:
    return STEP_PASSES * settings.recipe.epochs * len(data.train)


SPEC = StageSpec(name="pruned", version=3, settings=PrunedSettings, place=_place, run=_run, images=_images)
