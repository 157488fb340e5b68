"""Which channels of a network must be scaled together: those that meet in an add, a concat, a pool or a flattening.

A channel may be divided by a number where it is made if it is multiplied with it wherever it is read: relu, pooling, adding and
laying side by side keep the proportion. Every convolution and linear layer starts new channels; the network's input and its
output keep theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.execution import activation_of
from edgesearch.board_eval.graph import Activation, Add, Concat, Conv, Depthwise, Graph, Linear, Node, Pool, Reshape

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Channels:
    """Node -> the id of each of its channels (elements of its last axis). Channels with one id share one scale.

    `pinned` ids (count,) cannot be scaled. Of `capped` ones the ReLU6 behind them must not see more than it did.
    """

    of: dict[str, Ids]
    count: int
    pinned: npt.NDArray[np.bool_]
    capped: npt.NDArray[np.bool_]

    @cached_property
    def components(self) -> Ids:
        """Id -> a number shared by all ids that lie in one tensor, directly or through others."""
        found = np.arange(self.count)
        while True:
            before = found.copy()
            for ids in self.of.values():
                found[ids] = found[ids].min()
            if np.array_equal(found, before):
                return found

    @cached_property
    def movable(self) -> list[int]:
        """The components in which nothing is pinned or capped."""
        fixed = np.unique(self.components[self.pinned | self.capped])
        return [int(c) for c in np.unique(self.components) if c not in fixed]


def find_channels(graph: Graph) -> Channels:
    """The channels of every node of `graph`."""
    union = _Union()
    raw: dict[str, Ids] = {}
    pinned: list[Ids] = []
    for node in graph:
        raw[node.name] = _ids(node, [raw[name] for name in node.inputs], graph, union, pinned)
    pinned += [raw[graph.input.name], raw[graph.output.name]]
    capped = [raw[node.name] for node in graph if activation_of(node) == "relu6"]
    roots = union.roots()
    _, dense = np.unique(roots, return_inverse=True)  # root -> 0, 1, 2, ...
    count = int(dense.max()) + 1

    def flags(chosen: list[Ids]) -> npt.NDArray[np.bool_]:
        flag = np.zeros(count, np.bool_)
        for ids in chosen:
            flag[dense[ids]] = True
        return flag

    return Channels({name: dense[ids] for name, ids in raw.items()}, count, flags(pinned), flags(capped))


def _ids(node: Node, inputs: list[Ids], graph: Graph, union: _Union, pinned: list[Ids]) -> Ids:
    match node:
        case Pool() | Activation():
            return inputs[0]
        case Add():
            union.join(inputs[0], inputs[1])
            return inputs[0]
        case Concat() if node.axis == len(node.shape) - 1:
            return np.concatenate(inputs)
        case Concat():
            for other in inputs[1:]:
                union.join(inputs[0], other)
            return inputs[0]
        case Reshape():
            channels = len(inputs[0])
            if node.shape[-1] % channels == 0:
                return np.tile(inputs[0], node.shape[-1] // channels)
            pinned.append(inputs[0])  # what was one channel becomes parts of several
            new = union.new(node.shape[-1])
            pinned.append(new)
            return new
        case _:
            return union.new(node.shape[-1])


class _Union:
    """Numbers of which some are the same (union-find, by arrays)."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> Ids:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, a: Ids, b: Ids) -> None:
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            self._parent[self._root(one)] = self._root(other)

    def roots(self) -> Ids:
        return np.array([self._root(i) for i in range(len(self._parent))], np.int64)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i


def layer_channels(channels: Channels, node: Conv | Depthwise | Linear) -> tuple[Ids, Ids]:
    """The ids of the channels a layer reads and of those it makes."""
    return channels.of[node.inputs[0]], channels.of[node.name]
