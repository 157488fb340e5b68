"""A Graph computed by torch in real values, node by node, so that a quantizer can look at, round and train what it likes.

Tensors are (N, C, H, W) or (N, C); weights are in torch's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

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
)

#: Called with every node and its value (activation included); what it returns is what the node's readers see.
Rounding = Callable[[Node, Tensor], Tensor]


@dataclass
class Network:
    """A Graph with its weights and biases as tensors: node name -> tensor. A layer without bias has none here either."""

    graph: Graph
    weights: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Network:
        """Copies of the graph's weights."""
        network = cls(graph)
        for node in graph:
            if isinstance(node, Conv | Depthwise | Linear):
                assert node.weight is not None  # check_graph has looked
                network.weights[node.name] = torch.from_numpy(to_torch_layout(node, node.weight).copy())
                if node.bias is not None:
                    network.biases[node.name] = torch.from_numpy(np.array(node.bias, np.float32))
        return network

    def copy(self) -> Network:
        """Weights of its own."""
        return Network(
            self.graph, {k: v.clone() for k, v in self.weights.items()}, {k: v.clone() for k, v in self.biases.items()}
        )

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
        return apply_node(node, inputs)

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


def to_torch_layout(node: Conv | Depthwise | Linear, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(out, kh, kw, in) -> (out, in, kh, kw); depthwise (kh, kw, C) -> (C, 1, kh, kw)."""
    match node:
        case Conv():
            return np.ascontiguousarray(weight.transpose(0, 3, 1, 2))
        case Depthwise():
            return np.ascontiguousarray(weight.transpose(2, 0, 1)[:, None])
        case Linear():
            return np.ascontiguousarray(weight)


def from_torch_layout(node: Conv | Depthwise | Linear, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The inverse of `to_torch_layout`."""
    match node:
        case Conv():
            return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
        case Depthwise():
            return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
        case Linear():
            return np.ascontiguousarray(weight)


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
    return F.conv2d(x, weight, bias, node.stride, padding, node.dilation, groups)


def apply_node(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """Everything without weights, before its activation."""
    match node:
        case Pool():
            return _pool(node, inputs[0])
        case Add():
            return inputs[0] + inputs[1]
        case Concat():
            image = len(node.shape) == 3
            return torch.cat(list(inputs), {0: 2, 1: 3, 2: 1}[node.axis] if image else node.axis + 1)
        case Activation():
            return inputs[0]
        case Reshape():
            x = inputs[0].permute(0, 2, 3, 1) if inputs[0].ndim == 4 else inputs[0]
            y = x.reshape(len(x), *node.shape)
            return y.permute(0, 3, 1, 2) if y.ndim == 4 else y
        case _:
            raise TypeError(f"node {node.name!r} of type {type(node).__name__} has no value of its own")


def _pool(node: Pool, x: Tensor) -> Tensor:
    left, right, top, bottom = node.padding
    # the last window may reach beyond the padding (ceil_mode) or stop before its end
    right = max((node.shape[1] - 1) * node.stride[1] + node.kernel[1] - x.shape[3] - left, 0 if node.ceil_mode else right)
    bottom = max((node.shape[0] - 1) * node.stride[0] + node.kernel[0] - x.shape[2] - top, 0 if node.ceil_mode else bottom)
    if any((left, right, top, bottom)):
        x = F.pad(x, (left, right, top, bottom), value=-torch.inf if node.kind == "max" else 0.0)
    if node.kind == "max":
        return F.max_pool2d(x, node.kernel, node.stride)
    # the sum first: of integers it is exact, and so is the product with m / 2**s
    count = node.kernel[0] * node.kernel[1]
    if node.kernel == tuple(x.shape[2:]):
        return x.sum((2, 3), keepdim=True) * (node.factor / count)
    return F.avg_pool2d(x, node.kernel, node.stride, divisor_override=1) * (node.factor / count)
