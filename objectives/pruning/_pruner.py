"""The seam between a study and what removes channels from a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from edgesearch.objectives.pruning._budget import Clock
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._pruned import Pruned
from edgesearch.objectives.pruning._sensitivity import Sensitivity
from edgesearch.objectives.pruning._sparse import prune_n_m, prune_unstructured
from edgesearch.plugins import Registry

__all__ = ["PRUNERS", "Pruner", "PruningTask"]


@dataclass(frozen=True, kw_only=True)
class PruningTask:
    """What a pruner is given.

    model: the trained network, in evaluation mode; it stays as it is. input_shape: (channels, height, width).
    ratio: the share of multiply-accumulates, or with `time` of the DPU's time, to remove, 0..0.95.
    granularity: layers keep multiples of so many channels.
    draws, steps: how many ways to try, and rounds of pruning and fine-tuning, for a pruner that has them.
    score: how good a network is, more is better, from images that it was trained on.
    recalibrate: brings a network's batch-norm statistics up to date, in place.
    finetune: trains a network in place, between rounds counted from 0. The last training is not the pruner's.
    sensitivity: that of the model, where it was measured.
    chance: the score of guessing.
    pattern: (N, M), for a pruner that leaves N of M weights.
    time: where the ratio is of it, the seconds of the study's DPU for one image of a network; the result then has
    `seconds_before` and `seconds_after`, or SpaceError says that the pruner knows no time. rough_time: the same guessed
    quickly, to compare networks by.
    """

    model: nn.Module
    input_shape: tuple[int, int, int]
    ratio: float
    granularity: int
    draws: int
    steps: int
    score: Callable[[nn.Module], float]
    recalibrate: Callable[[nn.Module], None]
    finetune: Callable[[nn.Module, int], None]
    seed: int
    sensitivity: Sensitivity | None = None
    chance: float = 0.0
    pattern: tuple[int, int] = (2, 4)
    time: Callable[[nn.Module], float] | None = None
    rough_time: Callable[[nn.Module], float] | None = None

    @property
    def clock(self) -> Clock | None:
        """What tells the time, where the ratio is of it."""
        return None if self.time is None else Clock(self.time, self.rough_time or self.time)


class Pruner(Protocol):
    """Removes channels: a function of a task, with the same result for the same task."""

    def __call__(self, task: PruningTask) -> Pruned:
        """The network with fewer channels, and what was removed."""


#: The pruners of this program by name; a study gives others by their import paths.
PRUNERS: Registry[Pruner] = Registry("pruner")


def _one_step(task: PruningTask) -> Pruned:
    return prune_one_step(
        task.model,
        task.input_shape,
        ratio=task.ratio,
        granularity=task.granularity,
        draws=task.draws,
        score=task.score,
        recalibrate=task.recalibrate,
        seed=task.seed,
        sensitivity=task.sensitivity,
        chance=task.chance,
        clock=task.clock,
    )


def _iterative(task: PruningTask) -> Pruned:
    return prune_iterative(
        task.model,
        task.input_shape,
        ratio=task.ratio,
        granularity=task.granularity,
        steps=task.steps,
        score=task.score,
        finetune=task.finetune,
        seed=task.seed,
        draws=task.draws,
        recalibrate=task.recalibrate,
        sensitivity=task.sensitivity,
        chance=task.chance,
        clock=task.clock,
    )


def _unstructured(task: PruningTask) -> Pruned:
    return prune_unstructured(task.model, task.input_shape, ratio=task.ratio, score=task.score, seed=task.seed)


def _n_m(task: PruningTask) -> Pruned:
    return prune_n_m(task.model, task.input_shape, pattern=task.pattern, score=task.score, seed=task.seed)


PRUNERS.add("one_step", _one_step)
PRUNERS.add("iterative", _iterative)
PRUNERS.add("unstructured", _unstructured)
PRUNERS.add("n_m", _n_m)
