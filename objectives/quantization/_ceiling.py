"""Whole octaves that networks with small weights or values are scaled by, so that the finest grid there is fits them.

No grid is finer than position MAX_FIX. Weights that are small beside its step lose bits, or all they are, though the layer
behind may have bits to spare: dividing a tensor by a power of two where it is made, and multiplying it where it is read,
changes no number. Networks whose tensors all reach a coarser grid stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph import limits
from edgesearch.objectives.quantization._channels import Channels, layer_channels
from edgesearch.objectives.quantization._positions import MAX_FIX

__all__ = ["octaves_under_the_ceiling"]

#: Octaves that a tensor is moved at most in one go, and how often all are gone through.
_FURTHEST, _SWEEPS = 24, 64


@dataclass(frozen=True)
class _Lost:
    """One tensor: the position that holds it, and which components make it and are read for it (a value reads none)."""

    base: int
    makes: int
    reads: int | None = None

    def octaves(self, moves: Mapping[int, int]) -> int:
        """How much coarser than `base` the finest grid is, with every component divided by 2**moves."""
        moved = moves.get(self.makes, 0) - (0 if self.reads is None else moves.get(self.reads, 0))
        return max(0, self.base + moved - MAX_FIX)


def octaves_under_the_ceiling(network: Network, channels: Channels, ranges: Mapping[str, Tensor], bits: int) -> Tensor:
    """log2 of the scale of every channel id, whole numbers, equal within each movable component; float64.

    What is made small is the sum over all values and weights of the squares of the octaves that they lose: few lose many.
    Tensors of zeros lose nothing, and biases do not count: what is lost of them is small beside what they are added to.

    ranges: for every node with a position of its own, the largest absolute value of its channels (C,).
    """
    component = channels.components
    tensors = [
        _Lost(_position(reach, bits), int(component[channels.of[name][0]]))
        for name, reach in ranges.items()
        if float(reach.max()) > 0
    ]
    for node in network.layers():
        weight = network.weights[node.name]
        if float(weight.abs().max()) > 0:
            reads, makes = (int(component[ids[0]]) for ids in layer_channels(channels, node))
            tensors.append(_Lost(_position(weight, bits), makes, reads))
    moves = _moves(tensors, channels.movable)
    return torch.tensor([moves.get(int(each), 0) for each in component], dtype=torch.float64)


def _position(value: Tensor, bits: int) -> int:
    """The finest position at which nothing saturates by more than half a step, however fine."""
    low, high = limits(bits)
    return math.floor(-math.log2(max(float(value.min()) / (low - 0.5), float(value.max()) / (high + 0.5))))


def _moves(tensors: list[_Lost], movable: list[int]) -> dict[int, int]:
    """Component -> octaves that it is divided by: one component after the other is put where the least is lost."""
    moves = dict.fromkeys(movable, 0)
    if not any(tensor.octaves(moves) for tensor in tensors):
        return moves
    touching = {place: [tensor for tensor in tensors if place in (tensor.makes, tensor.reads)] for place in movable}
    for _ in range(_SWEEPS):
        before = dict(moves)
        for place in movable:
            tried = sorted(range(moves[place] - _FURTHEST, moves[place] + _FURTHEST + 1), key=lambda m: abs(m - moves[place]))
            moves[place] = min(tried, key=lambda move: _lost(touching[place], {**moves, place: move}))
        if moves == before:
            break
    return moves


def _lost(tensors: list[_Lost], moves: Mapping[int, int]) -> int:
    return sum(tensor.octaves(moves) ** 2 for tensor in tensors)
