"""Pruning by Vitis AI's own optimizer, in its own Python.

It gives back the tensors of the slim network, and nothing else: the network that is trained and quantized is this program's
own, made as narrow as those tensors are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgesearch.board_eval.vitis import VitisSettings
from edgesearch.errors import SpaceError, ToolchainError
from edgesearch.objectives.pruning._hollow import copied
from edgesearch.objectives.pruning._pruned import Pruned, check_pruning, pruned_network
from edgesearch.objectives.pruning._pruner import PruningTask
from edgesearch.objectives.pruning._resize import is_depthwise, resize_to
from edgesearch.objectives.vitis import Job, finished, torch_source

__all__ = ["PruningImages", "prune_with_vai"]

#: Seconds after which a one-step search that has found no network ends, and more for each that it is to find. One that found
#: some has half of a job's time to find them all, or fails: which it found by then depends on how fast the machine is.
_SEARCH_S, _DRAW_S = 600.0, 60.0


@dataclass(frozen=True)
class PruningImages:
    """What networks are scored on, images (N, C, H, W) and labels (N,), and batch-norms brought up to date with; prepared."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    recalibration: NDArray[np.float32]


def prune_with_vai(
    task: PruningTask,
    method: Literal["one_step", "iterative"],
    images: PruningImages,
    vitis: VitisSettings,
    packages: Mapping[str, str] | None = None,
) -> Pruned:
    """The task's network less `ratio` of its MACs, as `prune_one_step` and `prune_iterative` give it, by Vitis AI's optimizer.

    One-step draws from all ratios itself, `draws` times. Iterative prunes in `steps` rounds of the same proportion, with
    `finetune` between them. Its own `score` and `recalibrate` are used, since the task's are functions of this process.
    `packages` are versions that Vitis AI's Python must have, by name.

    Raises ToolchainMissing where that Python is not there or has other packages; ToolchainError where it fails, where the time
    of a search is up before all `draws` are found, and for a network that is none of this one's, that lost nothing or that
    holds back parameters from training; SpaceError where there is nothing that it prunes.
    """
    check_pruning(task.ratio, task.granularity)
    if not any(isinstance(m, nn.Conv2d) and not is_depthwise(m) for m in task.model.modules()):
        raise SpaceError(
            "Vitis AI's optimizer removes channels of convolutions, and this network has none; use another backend"
        )
    rounds = 1 if method == "one_step" else max(1, task.steps)
    ratio = 1 - (1 - task.ratio) ** (1 / rounds)
    current, scores, versions = task.model, tuple[float, ...](), dict[str, str]()
    for step in range(rounds):
        current, scores, versions = _round(task, current, method, ratio, step, images, vitis, packages or {})
        if step < rounds - 1:
            task.finetune(current, step)
    done = pruned_network(task.model, current, task.input_shape, task.ratio)
    return Pruned(done.model, done.channels, done.macs_before, done.macs_after, task.ratio, scores, versions=versions)


def _round(
    task: PruningTask,
    model: nn.Module,
    method: Literal["one_step", "iterative"],
    ratio: float,
    step: int,
    images: PruningImages,
    vitis: VitisSettings,
    packages: Mapping[str, str],
) -> tuple[nn.Module, tuple[float, ...], dict[str, str]]:
    """`model` less `ratio` of its MACs, on the same device, the scores of the networks drawn, and versions of packages."""
    place = next(model.parameters()).device
    job = Job(
        task="prune_one_step" if method == "one_step" else "prune_iterative",
        source=torch_source(model, task.input_shape),
        seed=task.seed + step,
        threads=torch.get_num_threads(),
        device="cuda" if place.type == "cuda" else "cpu",
        packages=packages,
        settings={
            "ratio": ratio,
            "granularity": task.granularity,
            "draws": task.draws,
            "search_seconds": vitis.job_timeout_s / 2,
            "patience_seconds": min(vitis.job_timeout_s / 2, _SEARCH_S + _DRAW_S * task.draws),
        },
        arrays={"images": images.images, "labels": images.labels, "recalibration": images.recalibration},
    )
    with finished(job, vitis) as results:
        frozen = results.count("frozen_parameters")
        if frozen:
            raise ToolchainError(f"Vitis AI's optimizer gave back {frozen} parameters that are held back from training")
        tensors = {name: torch.from_numpy(array) for name, array in results.tensors("pruned").items()}
        return _slim(model, tensors, task).to(place), results.numbers("scores"), dict(results.versions)


def _slim(model: nn.Module, tensors: dict[str, torch.Tensor], task: PruningTask) -> nn.Module:
    """The network as narrow as the tensors; one that was sparse, or of other layers, would not compute, or not be smaller."""
    own = model.state_dict()
    state = {name: tensors.get(name, value.cpu()) for name, value in own.items()}  # what takes no part in it keeps its own
    try:
        slim = resize_to(copied(model).cpu(), state).requires_grad_(True).eval()
        before, after = pruned_network(model, slim, task.input_shape, task.ratio), sum(p.numel() for p in slim.parameters())
    except (RuntimeError, SpaceError) as error:
        raise ToolchainError(f"what Vitis AI's optimizer gave back is no slim form of this network: {error}") from error
    if before.macs_after >= before.macs_before or after >= sum(p.numel() for p in model.parameters()):
        raise ToolchainError("Vitis AI's optimizer gave back a network that is not smaller; ask for a larger ratio")
    return slim
