"""Where rounds of pruning lead: channels that are gone do not come back, so that a round can put its end out of reach."""

from __future__ import annotations

from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._layers import Layers
from edgesearch.objectives.pruning._ratio import approach, even_keys

__all__ = ["Course"]


class Course:
    """Knows from which networks `target` MACs can be met about as well as from the whole one, whose `layers` these are.

    As well: within the share `tolerance` of the network's MACs, or as near as the whole network comes when it loses channels
    evenly. The whole network itself is on the course, and from every network on it there is a way that stays there.
    """

    def __init__(self, layers: Layers, *, granularity: int, target: float, tolerance: float) -> None:
        self._granularity, self._target = granularity, target
        self._allowed = max(tolerance * float(layers.macs(layers.channels)), self._miss(layers))

    def allows(self, layers: Layers, kept: Integers, *, last: bool) -> bool:
        """Whether a round may leave `kept` (G,) channels of a network of these `layers`; the `last` has to meet the target."""
        miss = abs(float(layers.macs(kept)) - self._target) if last else self._miss(layers.narrowed(kept))
        return miss <= self._allowed

    def _miss(self, layers: Layers) -> float:
        """How far from the target a network ends that loses channels evenly."""
        keys = even_keys(layers.channels.tolist(), self._granularity)
        return abs(float(layers.macs(approach(layers, keys, self._granularity, self._target))) - self._target)
