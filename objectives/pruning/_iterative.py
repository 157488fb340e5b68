"""Pruning in rounds: measure how much each group can lose, remove a part of what is to go, fine-tune, repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from torch import nn

from edgesearch.objectives.pruning._budget import Clock, TimeBudget, budget_of
from edgesearch.objectives.pruning._course import Course
from edgesearch.objectives.pruning._groups import find_groups
from edgesearch.objectives.pruning._hollow import copied
from edgesearch.objectives.pruning._importance import weigh
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._pruned import Curve, Pruned, check_pruning, pruned_network, seeded
from edgesearch.objectives.pruning._sensitivity import Sensitivity, measure_groups
from edgesearch.objectives.pruning._ways import TOLERANCE, Scoring, best_way, draw_ways

__all__ = ["ROUNDS_VERSION", "prune_iterative"]

#: Raised by one whenever the code changes the result.
ROUNDS_VERSION = 3

#: Between rounds a network is fine-tuned once it has fallen by this share of the way from its own score to that of guessing.
#: Before that there is nothing to repair: a short training of a network that has converged disturbs more than it mends.
_FALLEN = 0.1


def _nothing(network: nn.Module) -> None:
    """Leaves a network as it is."""


# Long for its arguments, and for what is told of them.
def prune_iterative(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    ratio: float,
    granularity: int,
    steps: int,
    score: Callable[[nn.Module], float],
    finetune: Callable[[nn.Module, int], None],
    seed: int,
    draws: int = 1,
    recalibrate: Callable[[nn.Module], None] = _nothing,
    sensitivity: Sensitivity | None = None,
    chance: float = 0.0,
    clock: Clock | None = None,
) -> Pruned:
    """`model`, which is not changed, less `ratio` of its MACs in `steps` rounds of the same proportion.

    The rounds aim at shares of the whole `model`: what one misses, the next makes up. A round takes no way from which the end
    would be further from the ratio than `prune_one_step` allows, where channels go evenly from there on.

    Each round measures how `score` falls as every group alone loses 10 to 90 % of its channels, and chooses between a way that
    follows it and up to `draws` others as `prune_one_step` does, of which the first takes the same share of every group. But
    for the last round it then calls `finetune(network, round)`, rounds counted from 0, where the score has fallen since `model`
    by more than a tenth of the way to `chance`, that of guessing. With a `clock` the ratio is of the time that it tells. The
    last network is returned for its final training. `sensitivity` is that of `model` where it was measured before; with it,
    the first round measures nothing. Raises SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    current, rounds = copied(model), max(1, steps)
    whole, seconds, unpruned = 0.0, 0.0, 0.0
    first: Mapping[str, Curve] = {}
    course: Course | None = None
    for step in range(rounds):
        with seeded(seed + step):
            groups, base = weigh(current, find_groups(current, input_shape), score)
        unpruned = base if step == 0 else unpruned
        layers = layers_of(current, input_shape, groups)
        budget = budget_of(current, groups, layers, granularity, clock)
        if not budget.whole:  # nothing that computes
            break
        whole = whole or budget.whole
        target = whole * (1 - ratio) ** ((step + 1) / rounds)
        with seeded(seed + step):
            known = sensitivity if step == 0 else None
            measured = known or measure_groups(current, groups, granularity, score, base)
        variants = draw_ways(layers, max(0.0, 1 - target / budget.whole), budget, draws, np.random.default_rng(seed + step))
        scoring = Scoring(score, recalibrate, chance, seed + step)
        if clock is None:
            course = course or Course(layers, granularity=granularity, target=whole * (1 - ratio), tolerance=TOLERANCE)
        best, _ = best_way(
            current,
            groups,
            variants,
            budget=budget,
            target=target,
            scoring=scoring,
            sensitivity=measured,
            allowed=None if course is None else partial(course.allows, layers, last=step == rounds - 1),
        )
        seconds = budget.seconds(best.kept) if isinstance(budget, TimeBudget) else 0.0
        current = best.network
        if step < rounds - 1 and best.score < unpruned - _FALLEN * (unpruned - chance):
            with seeded(seed + step):
                finetune(current, step)
        if step == 0:
            first = measured.curves
    done = replace(pruned_network(model, current, input_shape, ratio), sensitivity=first)
    return done if clock is None else replace(done, seconds_before=whole, seconds_after=seconds)
