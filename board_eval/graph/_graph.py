"""The only form of a network below torch: typed nodes, shapes, float weights, fix positions.

A node is what the DPU rounds once: a convolution with its activation is one node, a convolution whose output is read twice
is followed by an `Activation` of its own. Shapes leave out the batch: (H, W, C) for images, (C,) for vectors.
Weights may be absent (None): shapes and kernels alone are enough to schedule and to time a network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph._groups import wrong_parts
from edgesearch.errors import GraphError

Array: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]
ActivationKind: TypeAlias = Literal["none", "relu", "relu6", "leaky_relu"]

#: The slope the DPU uses for every leaky ReLU.
LEAKY_SLOPE = 26 / 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation. `fix` is the fix position of its output: an integer q stands for q * 2**-fix.

    None means not quantized yet, or, in a quantized graph, that the node's value reaches a concat or a ReLU unrounded and takes
    its position (reshapes never have one of their own).
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    fix: int | None = None
    #: Names of the xmodel operations this node is read from and written as, first to last; empty: derived from `name`.
    op_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """The network's input image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighted(Node):
    weight: Array | None = None
    bias: Array | None = None  # (out,), None: no bias
    weight_fix: int | None = None
    bias_fix: int | None = None
    #: For analysis: a position of its own for the weights of each output channel, `weight_fix` being the finest. No DPU has it.
    channel_fix: tuple[int, ...] | None = None
    activation: ActivationKind = "none"
    #: Whether pytorch_nndct keeps a ReLU6: it replaces modules of class nn.ReLU6 by ReLU, but no function and no nn.Hardtanh.
    keeps_clip: bool = False
    has_bias: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(_Weighted):
    """A convolution; weight is (out, kernel height, kernel width, in).

    `groups`: outputs and inputs are so many equal parts, and an output is made of its part alone; other weights are zero.
    `picks`: the input that each output is, by weights of 1 x 1 that no training changes; other weights are zero.
    """

    kernel: tuple[int, int]  # (height, width)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # (left, right, top, bottom)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    picks: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Depthwise(_Weighted):
    """A depthwise convolution with multiplier 1; weight is (kernel height, kernel width, channels).

    `scale`: a batch-norm that could not be folded, a weight and a bias per channel (1 x 1). pytorch_nndct writes it as an
    operation `scale`, this program as a depthwise convolution, which the DPU has.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    scale: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(_Weighted):
    """A fully connected layer on a vector (C,); weight is (out, in)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(Node):
    """Max or average pooling. Padding counts as zeros in an average, never wins a maximum."""

    kind: Literal["max", "avg"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil_mode: bool = False
    is_global: bool = False
    #: Average only: what the plain mean is multiplied with, k * m / 2**s (the `mul` constant of an xmodel).
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """The sum of two tensors of the same shape."""

    activation: ActivationKind = "none"
    keeps_clip: bool = False  # see the weighted nodes


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """Its inputs side by side along `axis` of (H, W, C)."""

    axis: int = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Node):
    """An activation that could not be fused into what comes before it."""

    activation: ActivationKind
    keeps_clip: bool = False  # see the weighted nodes


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same values in (H, W, C) order under another shape."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: nodes in execution order, the last one its output. Raises GraphError when it is not well formed.

    apart: the same network with each batch-norm behind a linear layer as a `scale` of its own, as pytorch_nndct has it; a
    network that was lowered holds it where the two differ and the target has both, what is made of its nodes does not.
    """

    name: str
    nodes: tuple[Node, ...]
    bits: int = 8
    apart: Graph | None = None

    def __post_init__(self) -> None:
        seen: dict[str, Node] = {}
        if not self.nodes:
            raise GraphError(f"network {self.name!r} has no nodes")
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"network {self.name!r} has two nodes named {node.name!r}")
            for source in node.inputs:
                if source not in seen:
                    raise GraphError(f"node {node.name!r} reads {source!r}, which does not come before it")
            if not node.shape or not all(isinstance(size, int | np.integer) and size >= 1 for size in node.shape):
                raise GraphError(f"node {node.name!r} has shape {node.shape}, expected whole numbers, sizes of at least 1")
            expected = infer_shape(node, [seen[s].shape for s in node.inputs])
            if expected != node.shape:
                raise GraphError(f"node {node.name!r} says its shape is {node.shape}, its inputs make it {expected}")
            seen[node.name] = node
        inputs = [n.name for n in self.nodes if isinstance(n, Input)]
        if len(inputs) != 1:
            raise GraphError(f"network {self.name!r} has {len(inputs)} inputs, expected exactly one")

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Name -> node."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Name -> the nodes that read it, in execution order."""
        out: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                out[source].append(node)
        return {name: tuple(readers) for name, readers in out.items()}

    @property
    def input(self) -> Input:
        """The input node."""
        return next(node for node in self.nodes if isinstance(node, Input))

    @property
    def output(self) -> Node:
        """The node whose value is the network's result."""
        return self.nodes[-1]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def map(self, change: Callable[[Node], Node]) -> Graph:
        """The same network with every node replaced by `change(node)`."""
        return Graph(self.name, tuple(change(node) for node in self.nodes), self.bits)

    def replace(self, nodes: Mapping[str, Node]) -> Graph:
        """The same network with the named nodes replaced."""
        return self.map(lambda node: nodes.get(node.name, node))

    def fix_of(self, name: str) -> int | None:
        """Fix position of a node's value; a reshape has that of what it reads. None: not rounded."""
        node = self.by_name[name]
        while isinstance(node, Reshape):
            node = self.by_name[node.inputs[0]]
        return node.fix

    @cached_property
    def quantized(self) -> bool:
        """Whether every tensor that needs a fix position has one; a tensor only concats or ReLUs read needs none."""
        for node in self.nodes:
            if isinstance(node, _Weighted) and (node.weight_fix is None or (node.has_bias and node.bias_fix is None)):
                return False
            readers = self.consumers[node.name]
            unrounded = readers and all(isinstance(reader, Reshape) or reads_unrounded(reader) for reader in readers)
            if self.fix_of(node.name) is None and (isinstance(node, Input) or not unrounded):
                return False
        return True

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image, convolutions and linear layers only."""
        return sum(node_macs(node, [self.by_name[s].shape for s in node.inputs]) for node in self.nodes)

    @cached_property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(node_parameters(node, [self.by_name[s].shape for s in node.inputs]) for node in self.nodes)

    @property
    def weight_bytes(self) -> int:
        """Size of the weights and biases as stored for the DPU, at `bits` bits each, rounded up to whole bytes.

        Those of convolutions in groups are stored with the zeros around them, as are picks.
        """
        whole = self.map(lambda node: dataclasses.replace(node, groups=1, picks=None) if isinstance(node, Conv) else node)
        return math.ceil(whole.parameters * self.bits / 8)


def check_is_graph(network: object) -> None:
    """Raise GraphError for what is no Graph, such as the torch network that one is made of."""
    if not isinstance(network, Graph):
        raise GraphError(f"the network is of type {type(network).__name__}, expected a Graph, as `lower` makes")


def reads_unrounded(node: Node) -> bool:
    """Whether what the node reads may come without a fix position, since it can be rounded at the node's instead.

    So for a concat, and for ReLU and ReLU6: clamping and rounding half up give the same in either order. Leaky ReLU multiplies.
    """
    return isinstance(node, Concat) or (isinstance(node, Activation) and node.activation in ("relu", "relu6"))


def node_macs(node: Node, input_shapes: list[Shape]) -> int:
    """Multiply-accumulates of one node for one image."""
    match node:
        case Conv():
            whole = math.prod(node.shape) * math.prod(node.kernel) * input_shapes[0][-1]
            return whole // node.groups if node.picks is None else 0
        case Depthwise():
            return math.prod(node.shape) * math.prod(node.kernel)
        case Linear():
            return node.shape[0] * input_shapes[0][0]
        case _:
            return 0


def node_parameters(node: Node, input_shapes: list[Shape]) -> int:
    """Weights and biases of one node."""
    if not isinstance(node, Conv | Depthwise | Linear):
        return 0
    bias = node.shape[-1] if node.has_bias else 0
    match node:
        case Conv():
            whole = node.shape[-1] * math.prod(node.kernel) * input_shapes[0][-1]
            return (whole // node.groups if node.picks is None else 0) + bias
        case Depthwise():
            return node.shape[-1] * math.prod(node.kernel) + bias
        case _:
            return node.shape[0] * input_shapes[0][0] + bias


def window_output(size: int, pad: int, kernel: int, stride: int, dilation: int = 1, *, ceil: bool = False) -> int:
    """Output length of a sliding window over `size` elements with `pad` elements added in all.

    Raises GraphError for a kernel or a stride below 1.
    """
    if stride < 1 or kernel < 1:
        raise GraphError(f"a window of {kernel} pixels that moves by {stride}; both are at least 1")
    span = size + pad - ((kernel - 1) * dilation + 1)
    return (-(-span // stride) if ceil else span // stride) + 1


def infer_shape(node: Node, inputs: list[Shape]) -> Shape:
    """Shape of a node's output from its inputs' shapes; raises GraphError when they do not fit."""
    match node:
        case Input():
            return node.shape
        case Conv() | Depthwise() | Pool():
            return _infer_window(node, _only(node, inputs))
        case Linear():
            source = _only(node, inputs)
            if len(source) != 1 or len(node.shape) != 1:
                raise GraphError(f"linear {node.name!r} reads a tensor of shape {source}, expected a vector")
            if node.weight is not None and node.weight.shape != (node.shape[0], source[0]):
                raise GraphError(f"linear {node.name!r}: weights {node.weight.shape} on an input of {source}")
            return (node.shape[0],)
        case Add():
            if len(inputs) != 2 or inputs[0] != inputs[1]:
                raise GraphError(f"add {node.name!r} reads shapes {inputs}, expected two equal ones")
            return inputs[0]
        case Concat():
            first = inputs[0] if inputs else ()
            if not 0 <= node.axis < len(first) or any(
                len(s) != len(first) or any(a != b for i, (a, b) in enumerate(zip(s, first, strict=True)) if i != node.axis)
                for s in inputs
            ):
                raise GraphError(f"concat {node.name!r} on axis {node.axis} reads shapes {inputs}")
            return (*first[: node.axis], sum(s[node.axis] for s in inputs), *first[node.axis + 1 :])
        case Activation():
            return _only(node, inputs)
        case Reshape():
            source = _only(node, inputs)
            if math.prod(source) != math.prod(node.shape):
                raise GraphError(f"reshape {node.name!r} from {source} to {node.shape} changes the number of elements")
            return node.shape
        case _:
            raise GraphError(f"node {node.name!r} is of unknown type {type(node).__name__}")


def _only(node: Node, inputs: list[Shape]) -> Shape:
    if len(inputs) != 1:
        raise GraphError(f"node {node.name!r} has {len(inputs)} inputs, expected one")
    return inputs[0]


def _infer_window(node: Conv | Depthwise | Pool, source: Shape) -> Shape:
    if len(source) != 3 or len(node.shape) != 3:
        raise GraphError(f"node {node.name!r} makes {node.shape} of {source}, expected (H, W, C) of (H, W, C)")
    dilation = (1, 1) if isinstance(node, Pool) else node.dilation
    if min(node.kernel) < 1 or min(node.stride) < 1 or min(dilation) < 1 or min(node.padding) < 0:
        raise GraphError(f"node {node.name!r}: kernel {node.kernel}, stride {node.stride}, padding {node.padding}")
    ceil = isinstance(node, Pool) and node.ceil_mode
    left, right, top, bottom = node.padding
    height = window_output(source[0], top + bottom, node.kernel[0], node.stride[0], dilation[0], ceil=ceil)
    width = window_output(source[1], left + right, node.kernel[1], node.stride[1], dilation[1], ceil=ceil)
    if height < 1 or width < 1:
        raise GraphError(f"node {node.name!r}: kernel {node.kernel} is larger than its input {source}")
    match node:
        case Conv():
            channels = node.shape[-1]
            if node.weight is not None and node.weight.shape != (channels, *node.kernel, source[2]):
                raise GraphError(f"conv {node.name!r}: weights {node.weight.shape} on an input of {source}")
            if wrong := wrong_parts((channels, source[2]), node.groups, node.picks, node.kernel, node.weight):
                raise GraphError(f"conv {node.name!r}: {wrong}")
        case Depthwise():
            channels = source[2]
            if node.weight is not None and node.weight.shape != (*node.kernel, channels):
                raise GraphError(f"depthwise {node.name!r}: weights {node.weight.shape} on an input of {source}")
        case _:
            channels = source[2]
    return (height, width, channels)


def without_weights(graph: Graph) -> Graph:
    """The same network with shapes only: enough to schedule and to time it."""

    def strip(node: Node) -> Node:
        return dataclasses.replace(node, weight=None, bias=None) if isinstance(node, _Weighted) else node

    return graph.map(strip)
