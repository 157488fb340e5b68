"""A network that lost channels, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.spaces import HIGHEST_RATIO

__all__ = ["Curve", "Pruned", "check_pruning", "pruned_network", "scored", "seeded"]


#: (channels kept, score) of a group, fewer and fewer channels.
Curve: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Pruned:
    """A pruned network. `channels`: outputs kept by every convolution and linear layer, in order of execution."""

    model: nn.Module
    channels: dict[str, int]
    macs_before: int
    macs_after: int
    asked_ratio: float
    scores: tuple[float, ...] = ()  # of the ways that were tried, in one_step
    sensitivity: Mapping[str, Curve] = field(default_factory=dict)  # by group, of the network before the first round
    seconds_before: float | None = None  # of the DPU for an image, where the ratio is of its time
    seconds_after: float | None = None
    zero_share: float | None = None  # of the weights, where no channels go and weights are set to zero
    versions: Mapping[str, str] = field(default_factory=dict)  # of Vitis AI's packages, where they pruned it

    @property
    def reached_ratio(self) -> float:
        """The share that is gone of MACs, of the DPU's time, or of weights that are not zero.

        The granularity may not allow the ratio that was asked for.
        """
        if self.zero_share is not None:
            return self.zero_share
        if self.seconds_before is not None and self.seconds_after is not None:
            return 1 - self.seconds_after / self.seconds_before
        return 1 - self.macs_after / self.macs_before if self.macs_before else 0.0


def scored(score: Callable[[nn.Module], float], network: nn.Module) -> float:
    """The network's score; raises SpaceError where it is not a number, which nothing could be compared with."""
    found = float(score(network))
    if math.isnan(found):
        raise SpaceError("the score of a network is NaN; expected a number, more of which is better")
    return found


def check_pruning(ratio: float, granularity: int) -> None:
    """Raise SpaceError for what cannot be asked for."""
    if not 0 <= ratio <= HIGHEST_RATIO:
        raise SpaceError(f"the pruning ratio is {ratio}; expected the share of MACs to remove, from 0 to {HIGHEST_RATIO}")
    if granularity < 1:
        raise SpaceError(f"the pruning granularity is {granularity}; expected a number of channels, at least 1")


def pruned_network(model: nn.Module, pruned: nn.Module, input_shape: tuple[int, int, int], ratio: float) -> Pruned:
    """`pruned` with what is to be known of it: it was made from `model`, and asked to lose `ratio` of its MACs."""
    before, after = layer_macs(model, input_shape), layer_macs(pruned, input_shape)
    modules = dict(pruned.named_modules())
    channels = {name: int(_outputs(modules[name])) for name in after}
    return Pruned(pruned, channels, sum(before.values()), sum(after.values()), ratio)


def _outputs(module: nn.Module) -> int:
    return module.out_channels if isinstance(module, nn.Conv2d) else int(module.out_features)  # type: ignore[arg-type]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What the caller's functions draw from torch within it follows the seed; the process's own state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
