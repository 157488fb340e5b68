"""The feature maps of a network in quantization-aware training: those of the float network that it is made of.

Blocks and stages are modules of the float network, and the nodes of a Graph do not know of them. So maps are found there, and
each is taken from the node that computes the same values, which images show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph import Input
from edgesearch.errors import TrainingError
from edgesearch.objectives.data import answer_of
from edgesearch.objectives.pruning import quiet
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.training import Features, Supervision

#: Images that tell the nodes apart.
_IMAGES = 4


def supervision_of_nodes(supervision: Supervision, model: nn.Module, network: QatNetwork, images: Tensor) -> Supervision:
    """The same supervision for `network` as for `model`, of which it was made and whose modules name the stages.

    `images` are some that the networks read, (N, C, H, W). Raises TrainingError where one of the networks has no feature maps.
    """
    pairs = supervision.pairs(model, images.shape[1], (images.shape[2], images.shape[3]))
    nodes = nodes_of([ours for ours, _ in pairs], model, network, images[:_IMAGES])
    stages = tuple((network.module_of(node), theirs) for node, (_, theirs) in zip(nodes, pairs, strict=True))
    return dataclasses.replace(supervision, stages=stages)


def nodes_of(names: Sequence[str], model: nn.Module, network: QatNetwork, images: Tensor) -> list[str]:
    """The nodes of `network` that compute what these modules of `model` do: of all with maps of their shape the nearest."""
    features = Features(model, names)
    try:
        with quiet(model):
            answer_of(model, images.to(next(model.parameters()).device))
        maps = features.taken()
    finally:
        features.detach()
    computed = [node.name for node in network.graph if not isinstance(node, Input)]
    with torch.no_grad():
        values = Network.of(network.graph, reference=True).run(images.cpu(), keep=computed)
    return [_nearest(name, kept.detach().cpu(), values) for name, kept in zip(names, maps, strict=True)]


def _nearest(name: str, kept: Tensor, values: dict[str, Tensor]) -> str:
    errors = {node: float((value - kept).square().sum()) for node, value in values.items() if value.shape == kept.shape}
    if not errors:
        raise TrainingError(f"no value of the quantized network has the shape of what module {name!r} gives")
    return min(errors, key=errors.__getitem__)
