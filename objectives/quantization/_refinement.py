"""Fix positions of activations, one by one: a step finer or coarser where that brings the network's answers nearer."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from edgesearch.board_eval._graph import Graph, Node
from edgesearch.objectives.quantization._assembly import dpu_rounding
from edgesearch.objectives.quantization._network import Network
from edgesearch.objectives.quantization._output_error import OutputError
from edgesearch.objectives.quantization._positions import MAX_FIX, Positions, obey_shift_limits, owners, owns_position

#: Multiply-accumulates spent on trying positions; it sets how many images are looked at.
_MACS = 1.5e11
_MOST_IMAGES, _FEWEST_IMAGES = 256, 16
#: Values of all nodes that are kept while positions are tried.
_ELEMENTS = 150_000_000
#: A position changes when it lowers the error by this share at least: less is noise of a few images.
_GAIN = 0.01


def refine_positions(network: Network, positions: Positions, images: Tensor, reference: Tensor, bits: int) -> Positions:
    """Positions whose network answers most like `reference`, the float network's logits on `images`.

    `network` has its weights and biases rounded already. Nodes are gone through from input to output once.
    """
    graph, owned_by = network.graph, owners(network.graph)
    chosen = [node for node in graph if owns_position(node, owned_by)]
    count = _image_count(graph, len(chosen), len(images))
    images, error = images[:count], OutputError(reference[:count])
    positions = positions.copy()
    values = network.run(images, dpu_rounding(graph, positions, bits), keep=[node.name for node in graph])
    best = error(values[graph.output.name].flatten(1))
    for node in chosen:
        for step in (1, -1):
            trial = positions.copy()
            trial.values[node.name] += step
            if trial.values[node.name] > MAX_FIX or not _possible(graph, trial):
                continue
            changed = _run_from(network, node, values, images, trial, bits)
            found = error(changed[graph.output.name].flatten(1))
            if found < (1 - _GAIN) * best:
                best, positions = found, trial
                values.update(changed)
                break
    return positions


def _image_count(graph: Graph, positions: int, images: int) -> int:
    elements = sum(int(np.prod(node.shape)) for node in graph)
    # two trials for each position, each of which runs half the network on average
    count = min(_MOST_IMAGES, int(_MACS / max(graph.macs * positions, 1)), _ELEMENTS // elements)
    return min(images, max(_FEWEST_IMAGES, count))


def _possible(graph: Graph, positions: Positions) -> bool:
    limited = positions.copy()
    obey_shift_limits(graph, limited)
    return limited == positions


def _run_from(
    network: Network, start: Node, values: dict[str, Tensor], images: Tensor, positions: Positions, bits: int
) -> dict[str, Tensor]:
    """The values that change when the position of `start` does."""
    rounding = dpu_rounding(network.graph, positions, bits)
    changed: dict[str, Tensor] = {}
    for node in network.graph:
        if node is not start and not any(name in changed for name in node.inputs):
            continue
        inputs = [changed.get(name, values[name]) for name in node.inputs]
        changed[node.name] = rounding(node, network.compute(node, inputs) if inputs else images)
    return changed
