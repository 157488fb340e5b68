"""How a network's score falls as its groups of channels lose theirs, one group at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgesearch.objectives.pruning._groups import Group, find_groups, remove_channels
from edgesearch.objectives.pruning._pruned import Curve, check_pruning, seeded
from edgesearch.objectives.pruning._ratio import levels, round_to_levels

__all__ = ["Sensitivity", "falls", "measure_groups", "measure_sensitivity"]

#: Shares of a group's channels at which its sensitivity is measured.
_SENSITIVITY_RATIOS = np.arange(1, 10) / 10
#: Accuracy that a group's whole width is deemed to cost beyond what was measured. A few hundred images do not tell groups
#: apart that lose nothing; this spreads the removal over them.
_PRIOR = 0.01


@dataclass(frozen=True)
class Sensitivity:
    """A network's score, and by group of channels what it becomes when only that group is pruned."""

    base: float
    curves: Mapping[str, Curve]


def measure_sensitivity(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    granularity: int,
    score: Callable[[nn.Module], float],
    seed: int,
) -> Sensitivity:
    """How `score` falls as every group of `model` alone loses 10 to 90 % of its channels; the network is not changed."""
    check_pruning(0.0, granularity)
    with seeded(seed):
        return measure_groups(model, find_groups(model, input_shape), granularity, score)


def measure_groups(model: nn.Module, groups: list[Group], granularity: int, score: Callable[[nn.Module], float]) -> Sensitivity:
    """`measure_sensitivity` where the groups are known."""
    curves = {group.name: _curve(model, group, granularity, score) for group in groups}
    return Sensitivity(float(score(model)), curves)


def _curve(model: nn.Module, group: Group, granularity: int, score: Callable[[nn.Module], float]) -> Curve:
    """(channels kept, score) with only `group` pruned, at the levels nearest to 10..90 %."""
    kept = round_to_levels(_SENSITIVITY_RATIOS[:, None], [group.channels], granularity)[:, 0]
    wanted = sorted(set(kept.tolist()) - {group.channels}, reverse=True)
    return tuple((count, float(score(remove_channels(model, [group], [count])))) for count in wanted)


def falls(group: Group, sensitivity: Sensitivity, granularity: int) -> NDArray[np.float64]:
    """For each step down of a group: the fall in score behind it, between the measured points on straight lines."""
    curve, base = sensitivity.curves[group.name], sensitivity.base
    shares = np.array([0.0, *(1 - count / group.channels for count, _ in curve)])
    measured = np.maximum.accumulate([0.0, *(base - value for _, value in curve)])
    after = 1 - levels(group.channels, granularity)[1:] / group.channels
    beyond = np.maximum(after - shares[-1], 0.0)  # below the last measured point: as if the rest cost all that is left
    fallen: NDArray[np.float64] = np.interp(after, shares, measured) + _PRIOR * after + beyond * max(base, 0.0)
    return fallen
