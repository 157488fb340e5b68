"""A Graph computed by torch in real values, node by node: the one interpreter of float networks.

`run_float` runs it as the reference that quantized networks are compared with; quantizers look at, round and train what they
like in it. Tensors are (N, C, H, W) or (N, C); weights are in torch's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesearch.board_eval.execution._exact import unambiguous
from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
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
    concat_dimension,
    from_torch_layout,
    pool_sums_or_maxima,
    reshape_value,
    to_torch_layout,
)
from edgesearch.errors import QuantizationError

#: Called with every node and its value (activation included); what it returns is what the node's readers see.
Rounding = Callable[[Node, Tensor], Tensor]


@dataclass
class Network:
    """A Graph with its weights and biases as tensors: node name -> tensor. A layer without bias has none here either.

    With `reference` averages are plain means, where the DPU multiplies sums by m / 2**s.
    """

    graph: Graph
    weights: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    reference: bool = False

    @classmethod
    def of(cls, graph: Graph, *, reference: bool = False) -> Network:
        """Copies of the graph's weights. Raises QuantizationError when it has shapes only."""
        network = cls(graph, reference=reference)
        for node in graph:
            if isinstance(node, Conv | Depthwise | Linear):
                if node.weight is None or (node.has_bias and node.bias is None):
                    raise QuantizationError(
                        f"layer {node.name!r} has no weights, only shapes; load weights into the network first"
                    )
                network.weights[node.name] = torch.from_numpy(to_torch_layout(node, node.weight).copy())
                if node.bias is not None:
                    network.biases[node.name] = torch.from_numpy(np.array(node.bias, np.float32))
        return network

    def copy(self) -> Network:
        """Weights of its own."""
        return self._map(torch.clone)

    def to(self, device: str | torch.device) -> Network:
        """The same network on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def channels_last(self) -> Network:
        """The same network with weights in the memory layout that fits images as they come, (N, H, W, C)."""
        layout = torch.channels_last
        return self._map(lambda tensor: tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Network:
        weights = {name: change(weight) for name, weight in self.weights.items()}
        biases = {name: change(bias) for name, bias in self.biases.items()}
        return dataclasses.replace(self, weights=weights, biases=biases)

    def layers(self) -> tuple[Conv | Depthwise | Linear, ...]:
        """The nodes with weights, in execution order."""
        return tuple(node for node in self.graph if isinstance(node, Conv | Depthwise | Linear))

    def compute(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """The node's value from its inputs' values, activation included, not rounded."""
        return activate(activation_of(node), self.before_activation(node, inputs))

    def before_activation(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """The node's value before its activation."""
        if isinstance(node, Conv | Depthwise | Linear):
            return apply_layer(node, inputs[0], self.weights[node.name], self.biases.get(node.name))
        return apply_node(node, inputs, plain_means=self.reference)

    def run(self, images: Tensor, rounding: Rounding | None = None, keep: Iterable[str] = ()) -> dict[str, Tensor]:
        """The values of the nodes named in `keep`, and of the output under its own name, in the graph's order."""
        wanted = {*keep, self.graph.output.name}
        last = last_readers(self.graph)
        values: dict[str, Tensor] = {}
        for node in self.graph:
            value = images if isinstance(node, Input) else self.compute(node, [values[name] for name in node.inputs])
            values[node.name] = value if rounding is None else rounding(node, value)
            for name in node.inputs:
                if last[name] == node.name and name not in wanted:
                    values.pop(name, None)
        return {node.name: values[node.name] for node in self.graph if node.name in wanted}

    def logits(self, images: Tensor, rounding: Rounding | None = None) -> Tensor:
        """The output's value, (N, classes)."""
        return self.run(images, rounding)[self.graph.output.name].flatten(1)

    def to_graph(self) -> Graph:
        """The Graph with these weights."""

        def put(node: Node) -> Node:
            if not isinstance(node, Conv | Depthwise | Linear):
                return node
            bias = self.biases.get(node.name)
            return dataclasses.replace(
                node,
                weight=from_torch_layout(node, self.weights[node.name].detach().cpu().numpy()),
                bias=None if bias is None else bias.detach().cpu().numpy().copy(),
            )

        return self.graph.map(put)


def activation_of(node: Node) -> ActivationKind:
    """The activation a node ends with, "none" for those that have none."""
    return node.activation if isinstance(node, Conv | Depthwise | Linear | Add | Activation) else "none"


def last_readers(graph: Graph) -> Mapping[str, str]:
    """Node -> the last node that reads it; after that its value is of no use."""
    return {source: node.name for node in graph for source in node.inputs}


def activate(kind: ActivationKind, value: Tensor) -> Tensor:
    """The activation as the DPU computes it."""
    match kind:
        case "relu":
            return F.relu(value)
        case "relu6":
            return F.relu6(value)
        case "leaky_relu":
            return F.leaky_relu(value, LEAKY_SLOPE)
        case _:
            return value


def apply_layer(node: Conv | Depthwise | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution or the linear layer alone."""
    if isinstance(node, Linear):
        return F.linear(x, weight, bias)
    left, right, top, bottom = node.padding
    padding = (top, left)
    if (left, top) != (right, bottom):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    groups = weight.shape[0] if isinstance(node, Depthwise) else 1
    return F.conv2d(unambiguous(x), weight, bias, node.stride, padding, node.dilation, groups)


def apply_node(node: Node, inputs: Sequence[Tensor], *, plain_means: bool = False) -> Tensor:
    """Everything without weights, before its activation; averages as the DPU takes them unless `plain_means`."""
    match node:
        case Pool():
            y = pool_sums_or_maxima(node, inputs[0], (*inputs[0].shape[2:], node.shape[-1]))
            if node.kind == "avg" and plain_means:
                return y / (node.kernel[0] * node.kernel[1])
            # the sum first: of integers it is exact, and so is the product with m / 2**s
            return y if node.kind == "max" else y * (node.factor / (node.kernel[0] * node.kernel[1]))
        case Add():
            return inputs[0] + inputs[1]
        case Concat():
            return torch.cat(list(inputs), concat_dimension(node))
        case Activation():
            return inputs[0]
        case Reshape():
            return reshape_value(node, inputs[0])
        case _:
            raise TypeError(f"node {node.name!r} of type {type(node).__name__} has no value of its own")
