"""Pruning in one step, after EagleEye (B. Li et al. 2020): try many ways, estimate batch-norms anew, keep the best by score.

Most ways are drawn at random around the target. Where much goes, random ways score like chance and tell nothing; a way that
follows what was measured, how the score falls as each group alone loses channels, stands beside them there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from edgesearch.objectives.pruning._budget import Clock, TimeBudget, budget_of
from edgesearch.objectives.pruning._groups import find_groups
from edgesearch.objectives.pruning._importance import weigh
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._pruned import Pruned, check_pruning, pruned_network, seeded
from edgesearch.objectives.pruning._sensitivity import Sensitivity, measure_groups
from edgesearch.objectives.pruning._ways import Scoring, best_way, draw_ways

__all__ = ["GUIDED_FROM", "prune_one_step"]

#: From this ratio on, sensitivity is measured and followed.
GUIDED_FROM = 0.5


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
    others are drawn. From a ratio of 0.5 on, and with a clock always, one more follows the `sensitivity` of the groups, which
    is measured where it is not given, to the least fall for what is saved. Of a group those channels go that tell their
    readers least, on the images that one `score` of the model shows it. Each way is given to `recalibrate`, which brings its
    batch-norm statistics up to date, and to `score`, where more is better.

    Of equal scores the way wins that has the least fall by the groups' sensitivity, then the one that keeps most of the
    groups' importance; where sensitivity is followed, scores hardly above `chance`, that of guessing, count as equal. Raises
    SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    with seeded(seed):
        groups, base = weigh(model, find_groups(model, input_shape), score)
    layers = layers_of(model, input_shape, groups)
    budget = budget_of(model, groups, layers, granularity, clock)
    target = (1 - ratio) * budget.whole
    variants = draw_ways(layers, ratio, budget, draws, np.random.default_rng(seed))
    if ratio < GUIDED_FROM and clock is None:
        sensitivity = None
    elif sensitivity is None:
        with seeded(seed):
            sensitivity = measure_groups(model, groups, granularity, score, base)
    scoring = Scoring(score, recalibrate, chance, seed)
    best, scores = best_way(model, groups, variants, budget=budget, target=target, scoring=scoring, sensitivity=sensitivity)
    done = replace(pruned_network(model, best.network, input_shape, ratio), scores=scores)
    if isinstance(budget, TimeBudget):
        done = replace(done, seconds_before=budget.whole, seconds_after=budget.seconds(best.kept))
    return done if sensitivity is None else replace(done, sensitivity=sensitivity.curves)
