"""Cross-layer equalization as pytorch_nndct 3.5 does it before it calibrates: once, in float32, pair by pair."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from edgesearch.board_eval.execution import Network, activation_of, blocks
from edgesearch.board_eval.graph import Activation, Conv, Depthwise, Graph, Node, Pool

#: Channels whose two ranges sum to less stay as they are.
_NEGLIGIBLE = 0.5
#: What the smallest weights count as where a bias is compared with them.
_TINY = 1e-7


def equalize_as_vitis(network: Network) -> None:
    """Move range from the output channels of every pair's first convolution to the input channels of its second, in place."""
    for first, second in equalized_pairs(network.graph):
        _equalize(network, first.name, second)


def equalized_pairs(graph: Graph) -> list[tuple[Conv | Depthwise, Conv | Depthwise]]:
    """Convolutions joined by nothing but ReLU and pooling, each read once, in execution order."""
    pairs = []
    for node in graph:
        if _is_convolution(node) and activation_of(node) in ("none", "relu"):
            second = _next_convolution(graph, node)
            if second is not None:
                pairs.append((node, second))
    return pairs


def _is_convolution(node: Node) -> TypeGuard[Conv | Depthwise]:
    """Whether nndct sees a convolution; a batch-norm that was not folded is none, nor is a part of a tensor."""
    return (isinstance(node, Conv) and node.picks is None) or (isinstance(node, Depthwise) and not node.scale)


def _next_convolution(graph: Graph, node: Node) -> Conv | Depthwise | None:
    while True:
        readers = graph.consumers[node.name]
        if len(readers) != 1:
            return None
        node = readers[0]
        if _is_convolution(node):
            return node
        if not (isinstance(node, Pool) or (isinstance(node, Activation) and node.activation == "relu")):
            return None


def _equalize(network: Network, first: str, second: Conv | Depthwise) -> None:
    weight, bias = network.weights[first], network.biases.get(first)
    after = network.weights[second.name]
    range_out = weight.abs().amax((1, 2, 3))
    if bias is not None:
        counted = torch.where(range_out == 0, 0.0, bias.abs())  # a channel of zeros has no range to move
        own = blocks(weight, _groups(network.graph.by_name[first]))
        range_out = torch.maximum(range_out, counted / bias_shrink(own, bias))
    range_in = after.abs().amax((1, 2, 3) if isinstance(second, Depthwise) else (0, 2, 3))
    scale = range_out / torch.sqrt(range_out * range_in)
    keep = (range_out + range_in < _NEGLIGIBLE) | (range_out * range_in == 0)
    scale = torch.where(keep, torch.ones_like(scale), scale)
    network.weights[first] = weight / scale.reshape(-1, 1, 1, 1)
    if bias is not None:
        network.biases[first] = bias / scale
    shape = (-1, 1, 1, 1) if isinstance(second, Depthwise) else (1, -1, 1, 1)
    network.weights[second.name] = after * scale.reshape(shape)


def _groups(node: Node) -> int:
    return node.groups if isinstance(node, Conv) else 1


def bias_shrink(weight: Tensor, bias: Tensor) -> float:
    """How much of a bias counts as range: it is divided by this before it is compared with the weights.

    Decided by |bias| / |weight| of every weight. A weight of zero counts as its channel's smallest other one, none as less than
    1e-7, and the bias of a channel of zeros as 0.
    """
    size = weight.flatten(1).abs()  # (out, weights of a channel)
    zero = size == 0
    smallest = torch.where(zero, torch.inf, size).amin(1, keepdim=True)
    dead = zero.all(1, keepdim=True)
    size = torch.where(zero, torch.where(dead, _TINY, smallest), size).clamp_min(_TINY)
    offset = bias.abs()[:, None]
    ratio = (torch.where(dead, 0.0, offset) / size).numpy()
    median, mean = float(np.median(ratio)), float(ratio.mean())
    largest = float(offset.max())
    if largest < 10 and float(offset.max() / size.max()) < 20:
        return 5.0 if median > 100 or mean > 1000 else 2.0
    if median > 30 or mean > 500:
        return 20.0
    return 10.0 if median > 15 or mean > 100 else 5.0
