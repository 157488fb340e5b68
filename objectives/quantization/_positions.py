"""Fix positions: who has one, how one is found for a tensor, and the limits the DPU's shifts set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgesearch.board_eval.graph import (
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    limits,
    reads_unrounded,
)
from edgesearch.board_eval.targets import Limits

#: No position is finer than this at 8 bits and below (pytorch_nndct).
MAX_FIX = 12
#: The position of a tensor that holds (almost) nothing but zeros, before MAX_FIX.
_ZERO_FIX = 18
#: Positions tried from the coarsest one that holds the whole range upwards.
_CANDIDATES = 5
#: Share of the images whose logits may saturate.
_SATURATED = 0.01
#: Positions by which an add may make one of its inputs coarser: a network that asks for more asks for ever more.
_ADD_REACH = 256


@dataclass
class Positions:
    """Node name -> fix position of its value, of its weights and of its bias."""

    values: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    biases: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Positions:
        """A copy of its own."""
        return Positions(dict(self.values), dict(self.weights), dict(self.biases))


def owners(graph: Graph) -> dict[str, str]:
    """Node -> the node whose fix position its value is rounded at, as pytorch_nndct 3.5 places them.

    That is the node itself, or its single reader where that is a concat and the node is none, or where that is a ReLU or ReLU6
    and the node a pool. (The input keeps a position, that of the ReLU behind it: a board has to know it.) A reshape has none of
    its own: it owns what its source owns.
    """
    found: dict[str, str] = {}
    for node in reversed(graph.nodes):
        readers = graph.consumers[node.name]
        found[node.name] = node.name
        if len(readers) == 1 and not isinstance(node, Input | Reshape | Concat):
            (reader,) = readers
            if isinstance(reader, Concat) or (isinstance(node, Pool) and reads_unrounded(reader)):
                found[node.name] = found[reader.name]
    for node in graph.nodes:
        if isinstance(node, Reshape):
            found[node.name] = found[node.inputs[0]]
    return found


def owns_position(node: Node, owned_by: dict[str, str]) -> bool:
    """Whether the node's value has a fix position of its own."""
    return owned_by[node.name] == node.name and not isinstance(node, Reshape)


def round_half_up(value: Tensor, fix: int, bits: int = 8) -> Tensor:
    """Real values on the grid of `fix`, rounded half up and saturated: what the DPU does to activations."""
    low, high = limits(bits)
    return (value * 2.0**fix).add_(0.5).floor_().clamp_(low, high).mul_(2.0**-fix)


def round_half_away(value: Tensor, fix: int, bits: int = 8) -> Tensor:
    """Real values on the grid of `fix`, rounded half away from zero and saturated: how weights and biases are stored."""
    low, high = limits(bits)
    scaled = value * 2.0**fix
    return torch.trunc(scaled + torch.copysign(torch.full((), 0.5), scaled)).clamp_(low, high).mul_(2.0**-fix)


def base_position(value: Tensor, bits: int = 8) -> int:
    """The finest position at which nothing saturates by more than half a step (pytorch_nndct's start)."""
    low, high = limits(bits)
    step = max(float(value.min()) / (low - 0.5), float(value.max()) / (high + 0.5))
    if step < 2.0**-_ZERO_FIX:
        return _ZERO_FIX
    return math.floor(-math.log2(step))


def search_position(value: Tensor, bits: int = 8, *, weights: bool = False) -> int:
    """The position with the smallest sum of squared errors among five from `base_position` up; ties: the coarser."""
    base = base_position(value, bits)
    if base >= MAX_FIX:
        return MAX_FIX
    rounding = round_half_away if weights else round_half_up
    errors = [float(rounding(value, base + i, bits).sub_(value).square_().sum()) for i in range(_CANDIDATES)]
    return min(base + errors.index(min(errors)), MAX_FIX)


def output_position(value: Tensor, bits: int = 8) -> int:
    """The finest position at which no logit of 99 % of the images in `value` (N, ...) saturates.

    Logits are there to be compared: saturated ones tie whatever their difference, and so do those rounded more coarsely.
    """
    share = 1 - _SATURATED
    flat = value.flatten(1)
    ends = torch.stack([-torch.quantile(-flat.amin(1), share), torch.quantile(flat.amax(1), share)])
    return min(base_position(ends, bits), MAX_FIX)


def obey_limits(graph: Graph, positions: Positions) -> None:
    """`obey_shift_limits`, and what compiled programs ask for beside it, in place.

    The inputs of every add lie at most two positions apart, unless that would make one of them coarser without end: where a
    branch is added to what it was made of, its layers' shifts may ask for the opposite. Biases in front of a leaky ReLU are no
    finer than the sums that they are added to: others are rounded down beforehand, which would give other numbers there.
    """
    given, apart = positions.copy(), set[str]()
    while (add := _obey(graph, positions, given, apart)) is not None:
        apart.add(add)
        for own, first in (
            (positions.values, given.values),
            (positions.weights, given.weights),
            (positions.biases, given.biases),
        ):
            own.update(first)


def _obey(graph: Graph, positions: Positions, given: Positions, apart: set[str]) -> str | None:
    """The limits of `obey_limits` but for the adds of `apart`; the name of an add that goes on and on, None once all hold."""
    owned_by = owners(graph)
    changed = True
    while changed:
        obey_shift_limits(graph, positions)
        changed = False
        for node in graph:
            if getattr(node, "activation", "") == "leaky_relu" and node.name in positions.biases:
                finest = positions.weights[node.name] + positions.values[owned_by[node.inputs[0]]] + 1
                if positions.biases[node.name] > finest:
                    positions.biases[node.name], changed = finest, True
            if isinstance(node, Add) and node.name not in apart:
                sources = [owned_by[source] for source in node.inputs]
                finest = min(positions.values[source] for source in sources) + Limits.guard_bits
                for source in sources:
                    if positions.values[source] > finest:
                        positions.values[source], changed = finest, True
                    if finest < given.values[source] - _ADD_REACH:
                        return node.name
    return None


def with_coarse_biases(graph: Graph) -> Graph:
    """A quantized Graph whose biases in front of leaky ReLUs are as `obey_limits` has them."""

    def coarse(node: Node) -> Node:
        if not isinstance(node, Conv | Depthwise | Linear) or node.activation != "leaky_relu":
            return node
        fix_in = graph.fix_of(node.inputs[0])
        if node.bias_fix is None or node.weight_fix is None or fix_in is None:
            return node
        finest = node.weight_fix + fix_in + 1
        return node if node.bias_fix <= finest else dataclasses.replace(node, bias_fix=finest)

    coarser = graph.map(coarse)
    return graph if all(one is other for one, other in zip(graph, coarser, strict=True)) else coarser


def obey_shift_limits(graph: Graph, positions: Positions) -> None:
    """Lower the positions of outputs, weights and biases until every layer's shifts are what the DPU can do, in place.

    shift_cut = weight + input - output and shift_bias = weight + input - bias lie where `Limits` of the target has them.
    Lowering one layer's output may touch the next layer's shifts, so layers are gone through until nothing changes.
    """
    owned_by = owners(graph)
    changed = True
    while changed:
        changed = False
        for node in graph:
            if isinstance(node, Conv | Depthwise | Linear):
                changed |= _limit_layer(node, owned_by[node.inputs[0]], owned_by[node.name], positions)


def _limit_layer(node: Conv | Depthwise | Linear, source: str, owner: str, positions: Positions) -> bool:
    before = (positions.values[owner], positions.weights[node.name], positions.biases.get(node.name))
    fix_in = positions.values[source]
    shift_cut = positions.weights[node.name] + fix_in - positions.values[owner]
    if shift_cut < 0:
        positions.values[owner] += shift_cut
    elif shift_cut > Limits.shift_cut:
        positions.weights[node.name] -= shift_cut - Limits.shift_cut
    if node.name in positions.biases:
        shift_cut = positions.weights[node.name] + fix_in - positions.values[owner]
        shift_bias = positions.weights[node.name] + fix_in - positions.biases[node.name]
        lowest, highest = Limits.bias_shifts(shift_cut)
        if shift_bias < lowest:
            positions.biases[node.name] -= lowest - shift_bias
        elif shift_bias > highest:
            positions.weights[node.name] -= shift_bias - highest
    return before != (positions.values[owner], positions.weights[node.name], positions.biases.get(node.name))
