"""How a network's score falls as its groups of channels lose theirs, one group at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._groups import Group, find_groups, remove_channels
from edgesearch.objectives.pruning._importance import weigh
from edgesearch.objectives.pruning._pruned import Curve, check_pruning, scored, seeded
from edgesearch.objectives.pruning._ratio import levels, round_to_levels

__all__ = ["Sensitivity", "falls", "measure_groups", "measure_sensitivity"]

#: Shares of a group's channels at which its sensitivity is measured.
_SENSITIVITY_RATIOS = np.arange(1, 10) / 10
#: Accuracy that every halving of a group is deemed to cost beyond what was measured. A few hundred images do not tell groups
#: apart that lose nothing by themselves; this spreads the removal over them, the more the narrower they get.
_HALVING = 0.01


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
        groups, base = weigh(model, find_groups(model, input_shape), score)
        return measure_groups(model, groups, granularity, score, base)


def measure_groups(
    model: nn.Module, groups: Sequence[Group], granularity: int, score: Callable[[nn.Module], float], base: float
) -> Sensitivity:
    """`measure_sensitivity` where the groups, with their importance, and the network's own score are known."""
    return Sensitivity(base, {group.name: _curve(model, group, granularity, score) for group in groups})


def _curve(model: nn.Module, group: Group, granularity: int, score: Callable[[nn.Module], float]) -> Curve:
    """(channels kept, score) with only `group` pruned, at the levels nearest to 10..90 %."""
    kept = round_to_levels(_SENSITIVITY_RATIOS[:, None], [group.channels], granularity)[:, 0]
    wanted = sorted(set(kept.tolist()) - {group.channels}, reverse=True)
    return tuple((count, scored(score, remove_channels(model, [group], [count]))) for count in wanted)


def falls(group: Group, sensitivity: Sensitivity, granularity: int) -> NDArray[np.float64]:
    """For each step down of a group: the fall in score behind it, between the measured points on straight lines.

    Raises SpaceError where the sensitivity is of a network without that group.
    """
    if group.name not in sensitivity.curves:
        raise SpaceError(
            f"the sensitivity has no curve of the group {group.name!r}: it is another network's; measure it of this one, or "
            "leave it out"
        )
    curve, base = sensitivity.curves[group.name], sensitivity.base
    shares = np.array([0.0, *(1 - count / group.channels for count, _ in curve)])
    measured = np.maximum.accumulate([0.0, *(base - value for _, value in curve)])
    after = 1 - levels(group.channels, granularity)[1:] / group.channels
    beyond = np.maximum(after - shares[-1], 0.0)  # below the last measured point: as if the rest cost all that is left
    halvings = -np.log2(1 - after)
    fallen: NDArray[np.float64] = np.interp(after, shares, measured) + _HALVING * halvings + beyond * max(base, 0.0)
    return fallen
