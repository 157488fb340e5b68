"""From trained or corrected weights and fix positions to the Graph that stores integers."""

from __future__ import annotations

import dataclasses

import torch

from edgesearch.board_eval.execution import Network, Rounding
from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, Node
from edgesearch.objectives.quantization._positions import (
    Positions,
    owners,
    owns_position,
    round_half_away,
    round_half_up,
)


def assemble(network: Network, positions: Positions, bits: int) -> Graph:
    """The quantized Graph: every weight and bias is an integer times 2**-fix, every value that is rounded has its position."""
    owned_by = owners(network.graph)
    rounded = with_rounded_weights(network, positions, bits).to_graph()

    def put(node: Node) -> Node:
        fix = positions.values[node.name] if owns_position(node, owned_by) else None
        if isinstance(node, Conv | Depthwise | Linear):
            bias_fix = positions.biases.get(node.name)
            return dataclasses.replace(node, fix=fix, weight_fix=positions.weights[node.name], bias_fix=bias_fix)
        return dataclasses.replace(node, fix=fix)

    return dataclasses.replace(rounded.map(put), bits=bits)


def with_rounded_weights(network: Network, positions: Positions, bits: int) -> Network:
    """The network with the weights and biases an xmodel stores."""
    return Network(
        network.graph,
        {name: round_half_away(weight, positions.weights[name], bits) for name, weight in network.weights.items()},
        {name: round_half_away(bias, positions.biases[name], bits) for name, bias in network.biases.items()},
    )


def dpu_rounding(graph: Graph, positions: Positions, bits: int) -> Rounding:
    """Rounds every value at its position as the DPU does; values without one pass."""
    owned_by = owners(graph)

    def rounding(node: Node, value: torch.Tensor) -> torch.Tensor:
        if owns_position(node, owned_by):
            return round_half_up(value, positions.values[node.name], bits)
        return value

    return rounding
