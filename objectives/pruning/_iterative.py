"""Pruning in rounds: measure how much each group can lose, prune the least sensitive to a part of the target, fine-tune."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from edgesearch.objectives.pruning._budget import Clock, TimeBudget, budget_of, dear_keys
from edgesearch.objectives.pruning._groups import find_groups, layers_of, remove_channels
from edgesearch.objectives.pruning._pruned import Curve, Pruned, check_pruning, pruned_network, seeded
from edgesearch.objectives.pruning._sensitivity import Sensitivity, falls, measure_groups

__all__ = ["prune_iterative"]


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
    sensitivity: Sensitivity | None = None,
    clock: Clock | None = None,
) -> Pruned:
    """`model`, which is not changed, less `ratio` of its MACs in `steps` rounds of the same proportion.

    Each round measures how `score` falls as every group alone loses 10 to 90 % of its channels, finds the fall to allow so that
    the round's MACs are met, prunes every group to it, and, but for the last round, calls `finetune(network, round)`, rounds
    counted from 0. With a `clock` the ratio is of the time that it tells, and the groups lose what costs the least fall for the
    time that it saves. The last network is returned for its final training. `sensitivity` is that of `model` where it was
    measured before; with it, the first round measures nothing. Raises SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    current, rounds = copy.deepcopy(model), max(1, steps)
    whole, seconds = 0.0, 0.0
    first: Mapping[str, Curve] = {}
    for step in range(rounds):
        groups = find_groups(current, input_shape)
        budget = budget_of(current, groups, layers_of(current, input_shape, groups), granularity, clock)
        whole = whole or budget.whole
        with seeded(seed + step):
            known = sensitivity if step == 0 else None
            measured = known or measure_groups(current, groups, granularity, score)
            fallen = [falls(group, measured, granularity) for group in groups]
            keys = fallen if clock is None else dear_keys(fallen, budget)
            kept = budget.meet(keys, whole * (1 - ratio) ** ((step + 1) / rounds))
            seconds = budget.seconds(kept) if isinstance(budget, TimeBudget) else 0.0
            current = remove_channels(current, groups, kept.tolist())
            if step < rounds - 1:
                finetune(current, step)
        if step == 0:
            first = measured.curves
    done = replace(pruned_network(model, current, input_shape, ratio), sensitivity=first)
    return done if clock is None else replace(done, seconds_before=whole, seconds_after=seconds)
