"""The output's fix position: of the proposed one, one finer and one coarser, that which keeps the answers closest.

A finer step tells close logits apart, a coarser one saturates fewer: what that is worth depends on how sure the network is, and
no rule on the range alone knows it. Few bits make the steps matter, and many saturated logits may still keep the largest apart.
"""

from __future__ import annotations

from torch import Tensor, cat, split

from edgesearch.board_eval.graph import Node
from edgesearch.objectives.quantization._assembly import dpu_rounding, with_rounded_weights
from edgesearch.objectives.quantization._distance import answer_distance, answers_classes
from edgesearch.objectives.quantization._network import Network
from edgesearch.objectives.quantization._positions import MAX_FIX, Positions, obey_limits, owners, round_half_up

#: Tried in this order, counted from the proposed position; of equally good ones the first is taken.
_STEPS = (0, 1, -1)
#: Images computed at a time.
_BATCH = 16


def choose_output_position(exact: Network, network: Network, positions: Positions, images: Tensor, bits: int) -> Positions:
    """`positions` with the output's moved to where rounding leaves the answers closest to those of `exact` on `images`.

    `network` is quantized at `positions`. Its weights need not be rounded, but must not have been fitted to the answers on
    these images. Positions that the DPU's shifts do not allow are not tried. Of equally close ones the proposed is kept.
    """
    graph = network.graph
    candidates = [found for step in _STEPS if (found := _moved(network, positions, step)) is not None]
    if len(candidates) == 1:
        return candidates[0]
    expected = cat([exact.logits(part) for part in split(images, _BATCH)])
    unrounded = _unrounded_answers(network, positions, images, bits)
    owner, classes = owners(graph)[graph.output.name], answers_classes(graph)

    def distance(candidate: Positions) -> float:
        return answer_distance(expected, round_half_up(unrounded, candidate.values[owner], bits), classes=classes)

    return min(candidates, key=distance)


def _moved(network: Network, positions: Positions, step: int) -> Positions | None:
    """`positions` with the output's moved by `step`; None where the limits would then move one of them."""
    graph = network.graph
    moved = positions.copy()
    moved.values[owners(graph)[graph.output.name]] += step
    limited = moved.copy()
    obey_limits(graph, limited)
    allowed = limited == moved and moved.values[owners(graph)[graph.output.name]] <= MAX_FIX
    return moved if allowed or step == 0 else None


def _unrounded_answers(network: Network, positions: Positions, images: Tensor, bits: int) -> Tensor:
    """What the quantized network's output is rounded from, (N, outputs)."""
    owner = owners(network.graph)[network.graph.output.name]
    rounded, everywhere = with_rounded_weights(network, positions, bits), dpu_rounding(network.graph, positions, bits)

    def rounding(node: Node, value: Tensor) -> Tensor:
        return value if node.name == owner else everywhere(node, value)

    return cat([rounded.logits(part, rounding) for part in split(images, _BATCH)])
