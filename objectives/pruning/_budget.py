"""What pruning has to get below: a share of a network's multiply-accumulates, or of the DPU's time for an image of it.

Both are met in the same way: a policy gives every step down of every group a key (see `_ratio`), and steps are taken in the
order of their keys until enough is saved. MACs follow from the widths alone; the time is that of the network as the DPU would
run it, which takes from milliseconds to seconds to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._groups import Group, remove_channels
from edgesearch.objectives.pruning._layers import Layers
from edgesearch.objectives.pruning._ratio import approach, levels, prefixes

__all__ = ["Budget", "Clock", "MacBudget", "TimeBudget", "budget_of", "dear_keys"]

Floats = NDArray[np.float64]

#: Widths at which the time of a network is taken with one group alone at them; between them it is on straight lines.
_PROBES = 6
#: How near a time must be that need not be met, and how often the rough clock is set at most.
_NEAR, _ROUNDS = 0.01, 3


@dataclass(frozen=True)
class Clock:
    """Seconds of the DPU for one image of a network. `rough` is a quick estimate, whose ratios count and not its size."""

    exact: Callable[[nn.Module], float]
    rough: Callable[[nn.Module], float]


class Budget(Protocol):
    """A network's cost, and the ways to less of it. Channels kept are (G,), keys are as `_ratio` has them."""

    granularity: int

    @property
    def whole(self) -> float:
        """What the network costs as it is."""
        ...

    def cost(self, kept: Integers) -> float:
        """What the network costs whose groups keep `kept` channels."""
        ...

    def meet(self, keys: Sequence[Floats], target: float) -> Integers:
        """The channels kept, in the order of the keys, when the cost is about `target`."""
        ...

    def near(self, keys: Sequence[Floats], target: float) -> Integers:
        """Much the same as `meet` in less time, for one who need not keep the target."""
        ...

    def gains(self, group: int) -> Floats:
        """For each step down of a group: what is saved by it and those before it, the other groups being whole."""
        ...


class MacBudget:
    """The cost is multiply-accumulates; `meet` comes as near to its target as the keys and the granularity allow."""

    def __init__(self, layers: Layers, granularity: int) -> None:
        self.granularity = granularity
        self._layers = layers

    @property
    def whole(self) -> float:
        """See Budget."""
        return self.cost(self._layers.channels)

    def cost(self, kept: Integers) -> float:
        """See Budget."""
        return float(self._layers.macs(kept))

    def meet(self, keys: Sequence[Floats], target: float) -> Integers:
        """See Budget."""
        return approach(self._layers, keys, self.granularity, target)

    def near(self, keys: Sequence[Floats], target: float) -> Integers:
        """See Budget."""
        return self.meet(keys, target)

    def gains(self, group: int) -> Floats:
        """See Budget."""
        ladder = levels(int(self._layers.channels[group]), self.granularity)
        kept = np.tile(self._layers.channels, (len(ladder), 1))
        kept[:, group] = ladder
        macs = self._layers.macs(kept)
        saved: Floats = macs[0] - macs[1:]
        return saved


class TimeBudget:
    """The cost is the DPU's time; `meet` gives the first network in the order of the keys that is at least as fast."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], granularity: int, clock: Clock) -> None:
        self.granularity = granularity
        self._model, self._groups, self._clock = model, groups, clock
        self._channels = np.array([group.channels for group in groups], np.int64)
        self._known: dict[tuple[bool, tuple[int, ...]], float] = {}

    def seconds(self, kept: Integers, *, rough: bool = False) -> float:
        """The time of the network whose groups keep `kept` channels."""
        key = rough, tuple(kept.tolist())
        if key not in self._known:
            network = remove_channels(self._model, self._groups, kept.tolist())
            self._known[key] = (self._clock.rough if rough else self._clock.exact)(network)
        return self._known[key]

    @property
    def whole(self) -> float:
        """See Budget."""
        return self.cost(self._channels)

    def cost(self, kept: Integers) -> float:
        """See Budget."""
        return self.seconds(kept)

    def meet(self, keys: Sequence[Floats], target: float) -> Integers:
        """See Budget. Where no network is as fast, the narrowest."""
        kept, steps = prefixes(self._channels, keys, self.granularity)
        first = self._first(kept, target)
        return self._without_waste(kept[first], [group for group, _ in reversed(steps[:first])], target)

    def near(self, keys: Sequence[Floats], target: float) -> Integers:
        """See Budget. The rough clock decides, and is set by the exact one until both agree about the outcome."""
        kept, steps = prefixes(self._channels, keys, self.granularity)
        if self.whole <= target:
            return self._channels.copy()
        scale = self._scale(kept[0])
        for _ in range(_ROUNDS):
            first = self._first_roughly(kept, target * scale)
            if abs(self.seconds(kept[first]) / target - 1) <= _NEAR:
                break
            scale = self._scale(kept[first])
        taken = [group for group, _ in reversed(steps[:first])]
        return self._without_waste(kept[first], taken, target * scale, roughly=True)

    def _scale(self, kept: Integers) -> float:
        return self.seconds(kept, rough=True) / self.seconds(kept)

    def _first_roughly(self, kept: Integers, target: float) -> int:
        """The first of `kept` behind its first, which is too slow, that takes no longer than `target` by the rough clock; else
        the last.
        """
        low, high = 0, len(kept) - 1  # low is too slow; high is fast enough, or the end
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.seconds(kept[middle], rough=True) <= target else (middle, high)
        return high

    def gains(self, group: int) -> Floats:
        """See Budget. Of a rough clock, and on straight lines between a few widths."""
        ladder = levels(int(self._channels[group]), self.granularity)
        probed = np.unique(np.linspace(0, len(ladder) - 1, _PROBES).round().astype(int))
        seconds = []
        for place in probed:
            kept = self._channels.copy()
            kept[group] = ladder[place]
            seconds.append(self.seconds(kept, rough=True))
        saved: Floats = np.interp(np.arange(1, len(ladder)), probed, seconds[0] - np.array(seconds))
        return saved

    def _first(self, kept: Integers, target: float) -> int:
        """The first of `kept` (P, G), each narrower than the one before, that takes no longer than `target`; else the last.

        The rough clock says about where; from there the exact one is asked in strides that double, then halve.
        """
        last = len(kept) - 1
        if self.seconds(kept[0]) <= target:
            return 0
        guess, stride = self._first_roughly(kept, target * self._scale(kept[0])), 1
        low, high = 0, last
        if self.seconds(kept[guess]) <= target:
            high = guess
            while high - stride > low and self.seconds(kept[high - stride]) <= target:
                high, stride = high - stride, 2 * stride
            low = max(low, high - stride)
        else:
            low = guess
            while low + stride < high and self.seconds(kept[low + stride]) > target:
                low, stride = low + stride, 2 * stride
            high = min(high, low + stride)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.seconds(kept[middle]) <= target else (middle, high)
        return high

    def _without_waste(self, kept: Integers, taken: Sequence[int], target: float, *, roughly: bool = False) -> Integers:
        """`kept` with steps given back that are not needed for `target`; `taken` are their groups, the dearest step first.

        `roughly`: the target is one of the rough clock, which alone decides.
        """
        best = kept.copy()
        rough_target = target if roughly else target * self._scale(kept)
        for group in dict.fromkeys(taken):
            ladder = levels(int(self._channels[group]), self.granularity).tolist()
            for wider in reversed(ladder[: ladder.index(int(best[group]))]):
                tried = best.copy()
                tried[group] = wider
                if self.seconds(tried, rough=True) > rough_target or not (roughly or self.seconds(tried) <= target):
                    break
                best = tried
        return best


def budget_of(
    model: nn.Module, groups: Sequence[Group], layers: Layers, granularity: int, clock: Clock | None
) -> MacBudget | TimeBudget:
    """The DPU's time where there is a clock for it, else MACs."""
    return MacBudget(layers, granularity) if clock is None else TimeBudget(model, groups, granularity, clock)


def dear_keys(fallen: Sequence[Floats], budget: Budget) -> list[Floats]:
    """Keys of a policy that saves where it is cheapest: the fall in score for each unit of cost that is saved.

    `fallen`: by group, the fall behind each step. Of a group's steps those are taken together that are cheaper together (the
    lower convex hull); steps that save nothing come last.
    """
    return [_slopes(fall, budget.gains(group)) for group, fall in enumerate(fallen)]


def _slopes(fallen: Floats, gains: Floats) -> Floats:
    fall, gain = np.concatenate([[0.0], fallen]), np.concatenate([[0.0], gains])
    keys, at = np.full(len(fallen), np.inf), 0
    while at < len(fallen):
        saves = np.flatnonzero(gain[at + 1 :] > gain[at] + 1e-9 * gain.max()) + at + 1
        if not len(saves):
            break
        slopes = np.maximum(fall[saves] - fall[at], 0.0) / (gain[saves] - gain[at])
        place = int(np.flatnonzero(slopes == slopes.min())[-1])
        keys[at : saves[place]] = slopes[place]
        at = int(saves[place])
    return keys
