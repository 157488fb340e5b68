"""MACs of every layer of a network, by the channels that its groups keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._groups import Group, parts_of, shares
from edgesearch.objectives.pruning._macs import layer_macs

__all__ = ["Layers", "layers_of"]


@dataclass(frozen=True)
class Parts:
    """A group whose channels several layers make side by side, in parts that keep whole numbers of them.

    out, into: (P, L) output and input channels of each layer for a channel of each part.
    """

    sizes: tuple[int, ...]  # (P,)
    out: Integers
    into: Integers
    #: (channels + 1, P): how many each part loses where the group keeps so many.
    lost: Integers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kept = [shares(self.sizes, count) for count in range(sum(self.sizes) + 1)]
        object.__setattr__(self, "lost", np.maximum(np.array(self.sizes) - np.array(kept), 0))

    def narrowed(self, kept: int) -> Parts:
        """Those of the network whose group keeps so many channels."""
        return replace(self, sizes=tuple((np.array(self.sizes) - self.lost[kept]).tolist()))


@dataclass(frozen=True)
class Layers:
    """MACs of every layer as a function of the channels kept in each group, for many variants at once.

    What a layer has of a group is a share of its channels, where they all exist in the same layers, and else in `parts`.
    """

    names: tuple[str, ...]
    out: Integers  # (L,) output channels, unpruned
    into: Integers  # (L,) input channels; 1 for depthwise
    each: Integers  # (L,) MACs for one pair of an output and an input channel
    out_share: NDArray[np.float64]  # (L, G) output channels of a layer for each channel of a group
    into_share: NDArray[np.float64]  # (L, G)
    channels: Integers  # (G,)
    parts: tuple[tuple[int, Parts], ...] = ()  # by the group's place

    def widths(self, kept: NDArray[np.int64]) -> Integers:
        """Output channels (L,) where the groups keep `kept` (G,)."""
        return self.narrowed(kept).out

    def macs(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """MACs (...) of variants whose groups keep `kept` (..., G) channels."""
        out, into = self._lost(kept)
        total: NDArray[np.float64] = ((self.out - out) * (self.into - into)) @ self.each
        return total

    def narrowed(self, kept: NDArray[np.int64]) -> Layers:
        """The layers of the network whose groups keep `kept` (G,) channels."""
        lost = self._lost(kept)
        out, into = (np.rint(size - gone).astype(np.int64) for size, gone in zip((self.out, self.into), lost, strict=True))
        parts = tuple((place, own.narrowed(int(kept[place]))) for place, own in self.parts)
        channels = np.asarray(kept, np.int64).copy()
        for place, own in parts:  # parts of at least one channel each may be more than were asked for
            channels[place] = sum(own.sizes)
        return replace(self, out=out, into=into, channels=channels, parts=parts)

    def _lost(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Output and input channels (..., L) that layers lose."""
        lost = (self.channels - kept).astype(np.float64)
        out, into = lost @ self.out_share.T, lost @ self.into_share.T
        for place, own in self.parts:
            of_parts = own.lost[kept[..., place]]
            out, into = out + of_parts @ own.out, into + of_parts @ own.into
        return out, into


def layers_of(model: nn.Module, input_shape: tuple[int, int, int], groups: Sequence[Group]) -> Layers:
    """The convolutions and linear layers of `model` in order of execution, and how the groups reach into them."""
    macs = layer_macs(model, input_shape)
    modules = dict(model.named_modules())
    place = {name: row for row, name in enumerate(macs)}
    share = {side: np.zeros((len(place), len(groups))) for side in ("out", "in")}
    parts = []
    for column, group in enumerate(groups):
        together = parts_of(group)
        if len(together) > 1:
            parts.append((column, _in_parts(group, together, place)))
            continue
        for member in group.members:
            if member.layer in place:
                share[member.side][place[member.layer], column] += len(member.index) / group.channels
    shapes = [tuple(_weight(modules[name]).shape) for name in macs]
    out, into = (np.array([shape[side] for shape in shapes], np.int64) for side in (0, 1))
    return Layers(
        names=tuple(macs),
        out=out,
        into=into,
        each=np.array(list(macs.values()), np.int64) // (out * into),
        out_share=share["out"],
        into_share=share["in"],
        channels=np.array([group.channels for group in groups], np.int64),
        parts=tuple(parts),
    )


def _in_parts(group: Group, together: Sequence[Integers], place: dict[str, int]) -> Parts:
    counts = {side: np.zeros((len(together), len(place)), np.int64) for side in ("out", "in")}
    for member in group.members:
        if member.layer in place:
            for row, part in enumerate(together):
                counts[member.side][row, place[member.layer]] += int(np.isin(member.root, part).sum()) // len(part)
    return Parts(tuple(len(part) for part in together), counts["out"], counts["in"])


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
