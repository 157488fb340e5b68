"""Pruning in one step, after EagleEye (B. Li et al. 2020): try many ways, estimate batch-norms anew, keep the best by score.

Most ways are drawn at random around the target. Where much goes, random ways score like chance and tell nothing; ways that
follow what was measured, how the score falls as each group alone loses channels, stand beside them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgesearch.objectives.pruning._budget import Clock, MacBudget, TimeBudget, budget_of, dear_keys
from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._groups import Group, Layers, find_groups, layers_of, remove_channels
from edgesearch.objectives.pruning._pruned import Pruned, check_pruning, pruned_network, seeded
from edgesearch.objectives.pruning._ratio import even_keys, levels, round_to_levels
from edgesearch.objectives.pruning._sensitivity import Sensitivity, falls, measure_groups

__all__ = ["GUIDED_FROM", "prune_one_step"]

#: From this ratio on, sensitivity is measured and followed.
GUIDED_FROM = 0.5
#: Scores are noise where the best is not this share of the way from chance to the unpruned network's.
_NOISE = 0.1
#: A drawn vector is taken as it is if it meets the target within this share of it (1 % in EagleEye); else it is scaled.
_TOLERANCE = 0.01
#: Vectors drawn for each one that is wanted, before the nearest are scaled.
_TRIES = 256
#: The least and the most that a draw takes of a group, and the widest spread between groups (Vitis AI optimizer).
_LEAST, _MOST, _SPREAD = 0.05, 0.9, 0.3


@dataclass(frozen=True)
class _Way:
    """Channels kept in each group (G,), and what is known of the network that keeps them."""

    kept: Integers
    network: nn.Module
    score: float
    fall: float  # of the score, as the groups' own add up; 0 where it was not measured
    magnitude: float


def prune_one_step(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    ratio: float,
    granularity: int,
    draws: int,
    score: Callable[[nn.Module], float],
    recalibrate: Callable[[nn.Module], None],
    seed: int,
    sensitivity: Sensitivity | None = None,
    chance: float = 0.0,
    clock: Clock | None = None,
) -> Pruned:
    """The best of some ways to remove `ratio` of the MACs of `model`, which is not changed. It is not fine-tuned yet.

    With a `clock` the ratio is of the time that it tells. The first way takes the same share of every group; up to `draws` - 1
    others are drawn. From a ratio of 0.5 on, and with a clock always, two more follow the `sensitivity` of the groups, which is
    measured where it is not given: to an equal fall of the score everywhere, and to the least fall for what is saved. Each
    way is given to `recalibrate`, which brings its batch-norm statistics up to date, and to `score`, where more is better.

    Of equal scores the way wins that has the least fall by the groups' sensitivity, then the one that keeps most of the
    weights' magnitude. Scores that are hardly above `chance`, that of guessing, count as equal. Raises SpaceError for a ratio
    outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    groups = find_groups(model, input_shape)
    layers = layers_of(model, input_shape, groups)
    budget = budget_of(model, groups, layers, granularity, clock)
    target = (1 - ratio) * budget.whole
    variants = _draw(layers, ratio, budget, draws, np.random.default_rng(seed))
    fallen: list[NDArray[np.float64]] | None = None
    if groups and (ratio >= GUIDED_FROM or clock is not None):
        with seeded(seed):
            sensitivity = sensitivity or measure_groups(model, groups, granularity, score)
        fallen = [falls(group, sensitivity, granularity) for group in groups]
        for keys in (fallen, dear_keys(fallen, budget)):
            kept = budget.meet(keys, target)
            variants += [] if any(np.array_equal(kept, known) for known in variants) else [kept]
    ways = []
    for kept in variants:
        network = remove_channels(model, groups, kept.tolist())
        with seeded(seed):
            recalibrate(network)
            scored = float(score(network))
        fall = 0.0 if fallen is None else _fall(groups, fallen, kept, granularity)
        ways.append(_Way(kept, network, scored, fall, _magnitude(groups, kept)))
    best = _best(ways, chance, None if sensitivity is None or fallen is None else sensitivity.base)
    done = replace(pruned_network(model, best.network, input_shape, ratio), scores=tuple(way.score for way in ways))
    if isinstance(budget, TimeBudget):
        done = replace(done, seconds_before=budget.whole, seconds_after=budget.seconds(best.kept))
    return done if sensitivity is None or fallen is None else replace(done, sensitivity=sensitivity.curves)


def _best(ways: Sequence[_Way], chance: float, base: float | None) -> _Way:
    """`base`: the score of the unpruned network, where there is sensitivity to go by instead of noise."""
    noise = base is not None and max(way.score for way in ways) < chance + _NOISE * (base - chance)
    return max(ways, key=lambda way: (0.0 if noise else way.score, -way.fall, way.magnitude))


def _fall(groups: Sequence[Group], fallen: Sequence[NDArray[np.float64]], kept: Integers, granularity: int) -> float:
    total = 0.0
    for group, fall, count in zip(groups, fallen, kept.tolist(), strict=True):
        step = levels(group.channels, granularity).tolist().index(count)
        total += float(fall[step - 1]) if step else 0.0
    return total


def _magnitude(groups: list[Group], kept: Integers) -> float:
    """The share of each group's magnitude that its most important `kept` channels hold, summed over the groups."""
    return sum(
        float(np.sort(group.importance)[group.channels - count :].sum() / max(group.importance.sum(), 1e-30))
        for group, count in zip(groups, kept.tolist(), strict=True)
    )


def _draw(layers: Layers, ratio: float, budget: MacBudget | TimeBudget, draws: int, rng: np.random.Generator) -> list[Integers]:
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
    for row in np.flatnonzero(misses <= _TOLERANCE):
        if len(found) < draws:
            found.setdefault(tuple(kept[row].tolist()), kept[row])
    for row in np.argsort(misses, kind="stable")[: 4 * draws]:
        if len(found) >= draws:
            break
        scaled_row = budget.meet(even_keys(channels, granularity, drawn[row]), target)
        if abs(float(layers.macs(scaled_row)) - target) <= max(
            _TOLERANCE * budget.whole, abs(float(layers.macs(even)) - target)
        ):
            found.setdefault(tuple(scaled_row.tolist()), scaled_row)
    return list(found.values())
