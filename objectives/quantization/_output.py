"""The output's fix position: the proposed one, one finer or one coarser, by what keeps the answers closest.

A finer step tells close logits apart, a coarser one saturates fewer: what that is worth depends on how sure the network is, and
no rule on the range alone knows it. Few bits make the steps matter, and many saturated logits may still keep the largest apart.
"""

from __future__ import annotations

from torch import Tensor, cat, split

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph import Node
from edgesearch.objectives.quantization._assembly import dpu_rounding, with_rounded_weights
from edgesearch.objectives.quantization._distance import answer_distances, answers_classes, clearly_less
from edgesearch.objectives.quantization._positions import MAX_FIX, Positions, obey_limits, owners, round_half_up

#: Images computed at a time.
_BATCH = 16


def choose_output_position(exact: Network, network: Network, positions: Positions, images: Tensor, bits: int) -> Positions:
    """`positions` with the output's moved by one to where rounding leaves the answers closest to those of `exact` on `images`.

    `network` is quantized at `positions`. Its weights need not be rounded, but must not have been fitted to the answers on
    these images. A finer position is taken where it is closer, a coarser one where it is clearly closer; neither where the
    DPU's shifts do not allow it. (Learning the rounding takes away noise that hides what a coarse step costs, but never the
    step: a finer one proved better whenever it was closer at all, a coarser one that was hardly closer did not.)
    """
    graph = network.graph
    finer, coarser = _moved(network, positions, 1), _moved(network, positions, -1)
    expected = cat([exact.logits(part) for part in split(images, _BATCH)])
    unrounded = _unrounded_answers(network, positions, images, bits)
    owner, classes = owners(graph)[graph.output.name], answers_classes(graph)

    def distances(candidate: Positions) -> Tensor:
        rounded = round_half_up(unrounded, candidate.values[owner], bits)
        return answer_distances(expected, rounded, classes=classes)

    proposed = distances(positions)
    if finer is not None and distances(finer).mean() < proposed.mean():
        return finer
    if coarser is not None and clearly_less(distances(coarser), proposed):
        return coarser
    return positions


def _moved(network: Network, positions: Positions, step: int) -> Positions | None:
    """`positions` with the output's moved by `step`; None where it would be too fine, or the limits then move one of them."""
    graph = network.graph
    owner = owners(graph)[graph.output.name]
    moved = positions.copy()
    moved.values[owner] += step
    limited = moved.copy()
    obey_limits(graph, limited)
    return moved if limited == moved and moved.values[owner] <= MAX_FIX else None


def _unrounded_answers(network: Network, positions: Positions, images: Tensor, bits: int) -> Tensor:
    """What the quantized network's output is rounded from, (N, outputs)."""
    owner = owners(network.graph)[network.graph.output.name]
    rounded, everywhere = with_rounded_weights(network, positions, bits), dpu_rounding(network.graph, positions, bits)

    def rounding(node: Node, value: Tensor) -> Tensor:
        return value if node.name == owner else everywhere(node, value)

    return cat([rounded.logits(part, rounding) for part in split(images, _BATCH)])
