"""The pruned stage: prune a trained network, then fine-tune all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edgesearch.objectives.data import DataSet, Split, prepare_tensor
from edgesearch.objectives.pruning import (
    Pruned,
    Sensitivity,
    measure_sensitivity,
    prune_iterative,
    prune_one_step,
    re_estimate_batch_norm,
)
from edgesearch.objectives.training import Checkpoints, Distillation, Recipe, Training, evaluate, train
from edgesearch.spaces import Pruning


def prune(
    model: nn.Module,
    data: DataSet,
    *,
    pruning: Pruning,
    search: Mapping[str, int],
    recipe: Recipe,
    input_size: int,
    seed: int,
    distillation: Distillation | None,
    sensitivity: Sensitivity | None,
    checkpoints: Checkpoints,
    report: Callable[[str], None],
    device: str,
) -> tuple[nn.Module, dict[str, Any]]:
    """The pruned and fine-tuned network, and what was done to it.

    A share of `pruning.ratio` of the multiply-accumulates goes. Draws are scored on images that are trained on, never on the
    validation images that the candidate is judged by. `sensitivity` is that of `model`, for iterative pruning where known.
    """
    shape = (data.channels, input_size, input_size)
    score = _scoring(data, input_size, search["score_images"])
    pixels = torch.from_numpy(data.train.images[-search["recalibration_images"] :])
    batch_norm_images = prepare_tensor(pixels, input_size, data.normalisation)

    def fine_tune(network: nn.Module, settings: Recipe, step: int, keep: Checkpoints | None) -> Training:
        return train(
            network,
            data,
            recipe=settings,
            input_size=input_size,
            seed=seed + step,
            distillation=distillation,
            checkpoints=keep,
            on_epoch=lambda epoch, loss: report(f"fine-tuning epoch {epoch}/{settings.epochs}  loss {loss:.4f}"),
            device=device,
        )

    if pruning.method == "one_step":
        pruned = prune_one_step(
            model,
            shape,
            ratio=pruning.ratio,
            granularity=pruning.granularity,
            draws=search["draws"],
            score=score,
            recalibrate=lambda network: re_estimate_batch_norm(network, batch_norm_images),
            seed=seed,
        )
    else:
        between = shorter(recipe, pruning.steps)
        pruned = prune_iterative(
            model,
            shape,
            ratio=pruning.ratio,
            granularity=pruning.granularity,
            steps=pruning.steps,
            score=score,
            finetune=lambda network, step: void(fine_tune(network, between, step + 1, None)),
            seed=seed,
            sensitivity=sensitivity,
        )
    report(f"pruned {pruned.reached_ratio:.1%} of the MACs ({pruned.macs_before:,} -> {pruned.macs_after:,})")
    training = fine_tune(pruned.model, recipe, 0, checkpoints)
    return pruned.model, _figures(pruned, pruning, training)


def sensitivity_of(
    model: nn.Module, data: DataSet, *, granularity: int, score_images: int, input_size: int, seed: int
) -> Sensitivity:
    """How the accuracy of a trained network on images that it was trained on falls as it loses channels, group by group."""
    shape, score = (data.channels, input_size, input_size), _scoring(data, input_size, score_images)
    return measure_sensitivity(model.eval(), shape, granularity=granularity, score=score, seed=seed)


def _scoring(data: DataSet, input_size: int, images: int) -> Callable[[nn.Module], float]:
    scored = Split(data.train.images[:images], data.train.labels[:images])
    return lambda network: evaluate(network, scored, input_size=input_size, normalisation=data.normalisation)


def shorter(recipe: Recipe, parts: int) -> Recipe:
    """The recipe with its epochs shared between the rounds of iterative pruning, at least one each."""
    epochs = max(1, recipe.epochs // parts)
    return recipe.model_copy(update={"epochs": epochs, "warmup_epochs": min(recipe.warmup_epochs, epochs)})


def void(result: object) -> None:
    """Drop a result where a callback must return nothing."""


def _figures(pruned: Pruned, pruning: Pruning, training: Training) -> dict[str, Any]:
    return {
        "asked_ratio": pruning.ratio,
        "reached_ratio": pruned.reached_ratio,
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "channels": dict(pruned.channels),
        "accuracy": training.accuracy,
        "epochs_done": training.epochs_done,
        "frozen_parameters": training.frozen_parameters,
    }
