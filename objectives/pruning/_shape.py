"""What a network looks like once it is pruned, before it is trained."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgesearch.objectives.pruning._budget import Clock, budget_of
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._pruned import check_pruning
from edgesearch.objectives.pruning._ratio import even_keys, levels

__all__ = ["PrunableShape", "pruned_shape"]


class PrunableShape:
    """An untrained network, ready to be asked what it looks like at any ratio. Nothing is measured or trained.

    Finding the groups takes most of the time (about a second for ResNet-50 at 224 px) and is done once, here.
    `input_shape` is (channels, height, width).
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self._model = model
        self._groups = find_groups(model, input_shape)
        self._layers = layers_of(model, input_shape, self._groups)

    def at(self, *, ratio: float, granularity: int, clock: Clock | None = None) -> nn.Module:
        """A copy that lost `ratio` of its MACs, or about that of its time by `clock`, evenly from all groups.

        Raises SpaceError for a ratio outside 0..0.95.
        """
        check_pruning(ratio, granularity)
        budget = budget_of(self._model, self._groups, self._layers, granularity, clock)
        kept = budget.near(even_keys(self._layers.channels.tolist(), granularity), (1 - ratio) * budget.whole)
        return remove_channels(self._model, self._groups, kept.tolist())

    def reach(self, *, granularity: int, clock: Clock | None = None) -> float:
        """The largest share of its MACs, or of its time by `clock`, that can go: every group is at its narrowest then.

        For a ratio beyond it, and of MACs further than `TOLERANCE`, every way to prune ends there.
        """
        check_pruning(0.0, granularity)
        narrowest = np.array([levels(count, granularity)[-1] for count in self._layers.channels.tolist()], np.int64)
        budget = budget_of(self._model, self._groups, self._layers, granularity, clock)
        return 1 - budget.cost(narrowest) / budget.whole if budget.whole else 0.0


def pruned_shape(model: nn.Module, input_shape: tuple[int, int, int], *, ratio: float, granularity: int) -> nn.Module:
    """`PrunableShape(model, input_shape).at(...)`, for a network that is asked about once."""
    check_pruning(ratio, granularity)
    return PrunableShape(model, input_shape).at(ratio=ratio, granularity=granularity)
