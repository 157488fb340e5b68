"""Ways to remove a share of a network, and the best of them by score.

Ways are drawn at random, after EagleEye (B. Li et al. 2020), and made from what was measured: how the score falls as each group
of channels alone loses some. A way is judged by the score of its network with batch-norm statistics estimated anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgesearch.objectives.pruning._budget import MacBudget, TimeBudget, dear_keys
from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._groups import Group, remove_channels
from edgesearch.objectives.pruning._layers import Layers
from edgesearch.objectives.pruning._pruned import scored, seeded
from edgesearch.objectives.pruning._ratio import even_keys, levels, round_to_levels
from edgesearch.objectives.pruning._sensitivity import Sensitivity, falls

__all__ = ["TOLERANCE", "Scoring", "Way", "best_way", "draw_ways"]

#: Scores are noise where the best is not this share of the way from chance to the unpruned network's.
_NOISE = 0.1
#: A drawn vector is taken as it is if it meets the target within this share of it (1 % in EagleEye); else it is scaled.
TOLERANCE = 0.01
#: Vectors drawn for each one that is wanted, before the nearest are scaled.
_TRIES = 256
#: The least and the most that a draw takes of a group, and the widest spread between groups (Vitis AI optimizer).
_LEAST, _MOST, _SPREAD = 0.05, 0.9, 0.3


@dataclass(frozen=True)
class Scoring:
    """How a network is judged: its batch-norms are brought up to date in place, then it is scored. `chance`: of guessing."""

    score: Callable[[nn.Module], float]
    recalibrate: Callable[[nn.Module], None]
    chance: float
    seed: int

    def __call__(self, network: nn.Module) -> float:
        """More is better; what the functions draw follows the seed."""
        with seeded(self.seed):
            self.recalibrate(network)
            return scored(self.score, network)


@dataclass(frozen=True)
class Way:
    """Channels kept in each group (G,), and what is known of the network that keeps them."""

    kept: Integers
    network: nn.Module
    score: float
    fall: float  # of the score, as the groups' own add up; 0 where it was not measured
    importance: float


def best_way(
    model: nn.Module,
    groups: Sequence[Group],
    variants: Sequence[Integers],
    *,
    budget: MacBudget | TimeBudget,
    target: float,
    scoring: Scoring,
    sensitivity: Sensitivity | None,
    allowed: Callable[[Integers], bool] | None = None,
) -> tuple[Way, tuple[float, ...]]:
    """The best of the `variants`, and of one more that follows the `sensitivity` of the groups where it is given; all scores.

    Only those are tried that are `allowed`, if that is given; where none is, the network stays as it is.

    That one has the least fall of the score for what is saved. Of equal scores the way wins that has the least fall by the
    groups' sensitivity, then the one that keeps most of the groups' importance. Where there is sensitivity to go by, scores
    that are hardly above chance count as equal.
    """
    variants = list(variants)
    fallen: list[NDArray[np.float64]] | None = None
    if sensitivity is not None and groups:
        fallen = [falls(group, sensitivity, budget.granularity) for group in groups]
        kept = budget.meet(dear_keys(fallen, budget), target)
        variants += [] if any(np.array_equal(kept, known) for known in variants) else [kept]
    scores: list[float] = []
    by_score, by_fall = _Best(), _Best()
    whole = np.array([group.channels for group in groups], np.int64)
    for kept in [kept for kept in variants if allowed is None or allowed(kept)] or [whole]:
        network = remove_channels(model, groups, kept.tolist())
        fall = 0.0 if fallen is None else _fall(groups, fallen, kept, budget.granularity)
        way = Way(kept, network, scoring(network), fall, _importance(groups, kept))
        scores.append(way.score)
        by_score.meet(way, way.score, -way.fall, way.importance)
        by_fall.meet(way, -way.fall, way.importance)
    base = 0.0 if sensitivity is None else sensitivity.base
    noise = fallen is not None and max(scores) < scoring.chance + _NOISE * (base - scoring.chance)
    best = by_fall.way if noise else by_score.way
    assert best is not None
    return best, tuple(scores)


class _Best:
    """The first of the ways that are met whose key no other's exceeds; the others and their networks are let go."""

    def __init__(self) -> None:
        self.way: Way | None = None
        self._key: tuple[float, ...] = ()

    def meet(self, way: Way, *key: float) -> None:
        if self.way is None or key > self._key:
            self.way, self._key = way, key


def _fall(groups: Sequence[Group], fallen: Sequence[NDArray[np.float64]], kept: Integers, granularity: int) -> float:
    total = 0.0
    for group, fall, count in zip(groups, fallen, kept.tolist(), strict=True):
        step = levels(group.channels, granularity).tolist().index(count)
        total += float(fall[step - 1]) if step else 0.0
    return total


def _importance(groups: Sequence[Group], kept: Integers) -> float:
    """The share of each group's importance that its most important `kept` channels hold, summed over the groups."""
    return sum(
        float(np.sort(group.importance)[group.channels - count :].sum() / max(group.importance.sum(), 1e-30))
        for group, count in zip(groups, kept.tolist(), strict=True)
    )


def draw_ways(
    layers: Layers, ratio: float, budget: MacBudget | TimeBudget, draws: int, rng: np.random.Generator
) -> list[Integers]:
    """Up to `draws` different ways to meet the target. On a small network there may be fewer."""
    channels, granularity = layers.channels.tolist(), budget.granularity
    target = (1 - ratio) * budget.whole
    even = budget.meet(even_keys(channels, granularity), target)
    found = {tuple(even.tolist()): even}
    tries = _TRIES if isinstance(budget, MacBudget) else 1
    count = max(draws - 1, 0) * tries if channels else 0
    lowest, highest = (0.0, ratio / 2) if ratio < 0.5 else (ratio / 2, ratio)
    mean = rng.uniform(lowest, highest, (count, 1))
    drawn = np.clip(rng.normal(mean, rng.uniform(0, _SPREAD, (count, 1)), (count, len(channels))), _LEAST, _MOST)
    if isinstance(budget, TimeBudget):  # whose cost is not known of thousands
        scaled = (budget.meet(even_keys(channels, granularity, row), target) for row in drawn)
        return list((found | {tuple(kept.tolist()): kept for kept in scaled}).values())
    kept = round_to_levels(drawn, channels, granularity)
    misses = np.abs(layers.macs(kept) - target) / budget.whole
    for row in np.flatnonzero(misses <= TOLERANCE):
        if len(found) < draws:
            found.setdefault(tuple(kept[row].tolist()), kept[row])
    for row in np.argsort(misses, kind="stable")[: 4 * draws]:
        if len(found) >= draws:
            break
        scaled_row = budget.meet(even_keys(channels, granularity, drawn[row]), target)
        if abs(float(layers.macs(scaled_row)) - target) <= max(
            TOLERANCE * budget.whole, abs(float(layers.macs(even)) - target)
        ):
            found.setdefault(tuple(scaled_row.tolist()), scaled_row)
    return list(found.values())
