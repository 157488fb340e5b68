"""The quantizer to use: positions chosen for the network's output, biases corrected layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgesearch.board_eval._graph import Conv, Depthwise, Graph, Linear
from edgesearch.objectives.quantization._assembly import assemble, dpu_rounding, to_tensor, with_rounded_weights
from edgesearch.objectives.quantization._checks import check_value
from edgesearch.objectives.quantization._network import Network, Rounding, activate, activation_of, last_readers
from edgesearch.objectives.quantization._output_error import OutputError, nearest
from edgesearch.objectives.quantization._positions import (
    Positions,
    obey_shift_limits,
    owners,
    owns_position,
    round_half_away,
    round_half_up,
    search_position,
    vote_position,
)
from edgesearch.objectives.quantization._refinement import refine_positions

#: The largest tensor over all images that is kept while layers are corrected, in elements.
_ELEMENTS = 64_000_000
#: Positions of the output tried below and above the one of smallest squared error.
_OUTPUT_BELOW, _OUTPUT_ABOVE = 3, 1
_BATCH = 32
#: Multiply-accumulates of one look at the network's answers; it sets how many images that takes.
_MACS = 5e10
_FEWEST_IMAGES = 16


def quantize_best(graph: Graph, images: npt.NDArray[np.float32], *, bits: int, seed: int) -> Graph:
    """See `quantize`."""
    shown = to_tensor(images)
    shown = shown[torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))]
    count = max(_FEWEST_IMAGES, min(len(shown), int(_MACS / max(graph.macs, 1))))
    with torch.no_grad():
        network = Network.of(graph)
        reference = _logits(network, shown[:count])
        first = network.copy()
        positions = calibrate(first, shown, bits)
        obey_shift_limits(graph, positions)
        rounded = with_rounded_weights(first, positions, bits)
        refined = refine_positions(rounded, positions, shown[:count], reference, bits)
        again = network.copy()
        corrected = calibrate(again, shown, bits, refined.values)
        obey_shift_limits(graph, corrected)
        # corrections build on each other from layer to layer and may run away, so what they made is compared, not trusted
        candidates = [(rounded, refined), (again, corrected), (rounded, positions)]
        error = OutputError(reference)
        errors = [error(_logits(n, shown[:count], dpu_rounding(graph, p, bits))) for n, p in candidates]
        chosen, fixes = candidates[errors.index(min(errors))]
    return assemble(chosen, fixes, bits)


def _logits(network: Network, images: Tensor, rounding: Rounding | None = None) -> Tensor:
    return torch.cat([network.logits(part, rounding) for part in torch.split(images, _BATCH)])


def calibrate(network: Network, images: Tensor, bits: int, values: Mapping[str, int] | None = None) -> Positions:
    """Positions and corrected biases, in execution order, everything before a layer already rounded.

    Each layer's weights are rounded and its bias shifted until every channel's mean is the float network's; both in place.
    Positions of activations are those of `values`, or else what most images vote for; the output's is the one at which the
    answers are nearest to the float network's.
    """
    graph, owned_by, positions = network.graph, owners(network.graph), Positions()
    images = images[: max(1, _ELEMENTS // max(int(np.prod(node.shape)) for node in graph))]
    output = owned_by[graph.output.name][0]
    exact: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    last = last_readers(graph)
    for node in graph:
        exact[node.name] = value = images
        if node.inputs:
            inputs = [rounded[name] for name in node.inputs]
            reference = network.before_activation(node, [exact[name] for name in node.inputs])
            check_value(node, reference)
            if isinstance(node, Conv | Depthwise | Linear):
                _round_layer(network, node, inputs[0], reference, positions, bits)
            exact[node.name] = activate(activation_of(node), reference)
            value = network.compute(node, inputs)
        if owns_position(node, owned_by):
            if values is not None:
                fix = values[node.name]
            else:
                fix = vote_position(value, bits)
                if node.name == output:
                    candidates = range(fix + _OUTPUT_ABOVE, fix - _OUTPUT_BELOW - 1, -1)
                    fix = nearest(candidates, value.flatten(1), OutputError(exact[node.name].flatten(1)), bits)
            positions.values[node.name] = fix
            value = round_half_up(value, fix, bits)
        rounded[node.name] = value
        for name in dict.fromkeys(node.inputs):
            if last[name] == node.name:
                del exact[name], rounded[name]
    return positions


def _round_layer(
    network: Network, node: Conv | Depthwise | Linear, x: Tensor, reference: Tensor, positions: Positions, bits: int
) -> None:
    """Round the layer's weights, then shift its bias so that every channel's mean is what it was, and round that."""
    weight = network.weights[node.name]
    positions.weights[node.name] = fix = search_position(weight, bits, weights=True)
    network.weights[node.name] = round_half_away(weight, fix, bits)
    if node.name not in network.biases:
        return
    error = network.before_activation(node, [x]) - reference
    bias = network.biases[node.name] - error.mean([d for d in range(error.ndim) if d != 1])
    positions.biases[node.name] = fix = search_position(bias, bits, weights=True)
    network.biases[node.name] = round_half_away(bias, fix, bits)
