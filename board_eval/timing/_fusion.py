"""From the nodes of a Graph to what the DPU runs as one layer: convolutions with what follows them, concats by strides.

The rules are those of AMD's compiler as its output shows them: a convolution takes in its only reader when that is a depthwise
convolution, a pooling, or an addition whose other operand is there already; a max pooling behind a concat moves onto the
branches; linear layers are 1x1 convolutions, or of the image that was flattened where they are too long for a pixel; reshapes
and concats cost nothing by themselves, but a concat's parts and a flattened image lie in external memory.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgesearch.board_eval.graph import (
    Activation,
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
    Shape,
)
from edgesearch.board_eval.timing._strides import strides_moved_back

LayerKind: TypeAlias = Literal["conv", "depthwise", "pool", "add", "activation", "copy", "downsample"]
Image: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: kernel and stride as (height, width), padding as (left, right, top, bottom)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def rows(self) -> int:
        """Input rows one output row needs, from the first to the last."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1


@dataclass(frozen=True, slots=True)
class Layer:
    """What the DPU runs as one: a main operation and, for convolutions, at most one fused behind it.

    Tensors are named by the node that makes them; `source`, `skip` and `output` are such names. Shapes are (H, W, C).
    """

    name: str
    kind: LayerKind
    nodes: tuple[str, ...]
    source: str
    output: str
    in_shape: Image
    mid_shape: Image  # what the main operation makes
    out_shape: Image
    window: Window
    #: Of the convolution: see `graph.Conv`.
    groups: int = 1
    picks: tuple[int, ...] | None = None
    has_bias: bool = False
    skip: str | None = None
    post: Literal["none", "depthwise", "pool", "add"] = "none"
    post_window: Window = Window()
    post_bias: bool = False
    #: Whether it works from memory to memory, one stripe after the other: AMD's compiler does so for a batch-norm of its own.
    serial: bool = False


@dataclass(frozen=True)
class Fused:
    """The layers of a network in execution order, and the tensors between them."""

    #: The network with the nodes that the layers name: strides and poolings may have moved.
    graph: Graph
    layers: tuple[Layer, ...]
    #: Shape of every tensor a layer reads or writes.
    tensors: dict[str, Image]
    #: Tensors that must lie in external memory: the image, concats, flattened images, the result.
    external: frozenset[str]
    #: A concat's parts: part -> the tensor it is written into by strides.
    written_into: dict[str, str]
    #: Their first channels in it.
    first_channel: dict[str, int]
    image: str
    result: str


def as_image(shape: Shape) -> Image:
    """(H, W, C); a vector (C,) lies as one pixel."""
    return (1, 1, shape[0]) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def fuse(graph: Graph, *, serial_scales: bool = True, longest: int | None = None) -> Fused:
    """The layers of `graph`. Weights are not looked at.

    `serial_scales`: whether batch-norms that could not be folded read and write external memory, as in AMD's code. `longest`:
    inputs of a linear layer that are a pixel's channels at most; one of more is a convolution of the image that was flattened.
    """
    return _Fusion(_pools_before_concats(strides_moved_back(graph)), serial_scales, longest).run()


def _pools_before_concats(graph: Graph) -> Graph:
    """Max poolings that alone read a concat of channels, moved onto its parts."""
    nodes: list[Node] = []
    changed = False
    for node in graph.nodes:
        source = graph.by_name[node.inputs[0]] if node.inputs else None
        if (
            isinstance(node, Pool)
            and node.kind == "max"
            and isinstance(source, Concat)
            and source.axis == 2
            and len(graph.consumers[source.name]) == 1
            and source.fix == node.fix
        ):
            changed = True
            nodes = [n for n in nodes if n.name != source.name]
            parts = []
            for i, part in enumerate(source.inputs):
                shape = (*node.shape[:2], graph.by_name[part].shape[2])
                moved = dataclasses.replace(node, name=f"{node.name}/{i}", inputs=(part,), shape=shape, op_names=())
                parts.append(moved.name)
                nodes.append(moved)
            nodes.append(Concat(name=node.name, inputs=tuple(parts), shape=node.shape, axis=2, fix=node.fix))
        else:
            nodes.append(node)
    return Graph(graph.name, tuple(nodes), graph.bits) if changed else graph


class _Fusion:
    def __init__(self, graph: Graph, serial_scales: bool, longest: int | None) -> None:
        self.graph = graph
        self.serial_scales, self.longest = serial_scales, longest
        self.consumers = graph.consumers
        self.position = {node.name: i for i, node in enumerate(graph.nodes)}
        self.alias: dict[str, str] = {}
        self.tensors: dict[str, Image] = {}
        self.external: set[str] = set()
        self.written_into: dict[str, str] = {}
        self.first_channel: dict[str, int] = {}
        self.layers: list[Layer] = []
        #: Convolution -> what is fused behind it, and the other way round.
        self.behind: dict[str, Node] = {}
        self.swallowed: dict[str, str] = {}

    def run(self) -> Fused:
        for node in self.graph.nodes:
            self._choose(node)
        for node in self.graph.nodes:
            self._emit(node)
        result = self._root(self.graph.output.name)
        self.external.update((self.graph.input.name, result))
        return Fused(
            self.graph,
            tuple(self.layers),
            self.tensors,
            frozenset(self.external),
            self.written_into,
            self.first_channel,
            self.graph.input.name,
            result,
        )

    # -- what is fused with what

    def _choose(self, node: Node) -> None:
        if isinstance(node, Depthwise | Pool):
            if (
                not self._serial(node)
                and self._free_conv(node.inputs[0])
                and not isinstance(self.graph.by_name[node.inputs[0]], Linear)
            ):
                self._fuse(node.inputs[0], node)
        elif isinstance(node, Add) and node.inputs[0] != node.inputs[1]:
            late = max(node.inputs, key=self.position.__getitem__)
            if self._free_conv(late):
                self._fuse(late, node)

    def _serial(self, node: Node) -> bool:
        return self.serial_scales and isinstance(node, Depthwise) and node.scale

    def _free_conv(self, name: str) -> bool:
        node = self.graph.by_name[name]
        return isinstance(node, Conv | Linear) and len(self.consumers[name]) == 1 and name not in self.behind

    def _fuse(self, conv: str, node: Node) -> None:
        self.behind[conv] = node
        self.swallowed[node.name] = conv

    # -- layers

    def _root(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _tensor(self, name: str) -> str:
        root = self._root(name)
        self.tensors.setdefault(root, as_image(self.graph.by_name[root].shape))
        return root

    def _emit(self, node: Node) -> None:
        match node:
            case Input():
                self._tensor(node.name)
            case Conv() | Linear():
                self._conv(node)
            case Depthwise() | Pool() | Add() | Activation():
                if node.name not in self.swallowed:
                    self._alone(node)
            case Concat():
                self._concat(node)
            case Reshape():
                self._reshape(node)

    def _read_by(self, node: Linear) -> tuple[int, int, int]:
        """What a linear layer reads: a vector as one pixel, or, where it is too long for one, the image that was flattened."""
        source = self.graph.by_name[node.inputs[0]]
        if self.longest is None or source.shape[-1] <= self.longest:
            return as_image(source.shape)
        while isinstance(source, Reshape | Activation):
            source = self.graph.by_name[source.inputs[0]]
        return as_image(source.shape)

    def _conv(self, node: Conv | Linear) -> None:
        behind = self.behind.get(node.name)
        last = behind or node
        source = self._tensor(node.inputs[0])
        if isinstance(node, Conv):
            in_shape = as_image(self.graph.by_name[node.inputs[0]].shape)
            window = Window(node.kernel, node.stride, node.padding, node.dilation)
        else:
            in_shape = self._read_by(node)
            window = Window(in_shape[:2])
        layer = Layer(
            name=node.name,
            kind="conv",
            nodes=(node.name,) if behind is None else (node.name, behind.name),
            source=source,
            output=self._tensor(last.name),
            in_shape=in_shape,
            mid_shape=as_image(node.shape),
            out_shape=as_image(last.shape),
            window=window,
            groups=node.groups if isinstance(node, Conv) else 1,
            picks=node.picks if isinstance(node, Conv) else None,
            has_bias=node.has_bias,
        )
        match behind:
            case Add():
                other = next(name for name in behind.inputs if name != node.name)
                layer = dataclasses.replace(layer, post="add", skip=self._tensor(other))
            case Depthwise():
                layer = dataclasses.replace(layer, post="depthwise", post_window=_window(behind), post_bias=behind.has_bias)
            case Pool():
                layer = dataclasses.replace(layer, post="pool", post_window=_window(behind))
        self.layers.append(layer)

    def _alone(self, node: Node) -> None:
        kind: LayerKind
        match node:
            case Depthwise():
                kind, window = "depthwise", _window(node)
            case Pool():
                kind, window = "pool", _window(node)
            case Add():
                kind, window = "add", Window()
            case _:
                kind, window = "activation", Window()
        shape = as_image(node.shape)
        self.layers.append(
            Layer(
                name=node.name,
                kind=kind,
                nodes=(node.name,),
                source=self._tensor(node.inputs[0]),
                skip=self._tensor(node.inputs[1]) if isinstance(node, Add) else None,
                output=self._tensor(node.name),
                in_shape=as_image(self.graph.by_name[node.inputs[0]].shape),
                mid_shape=shape,
                out_shape=shape,
                window=window,
                has_bias=isinstance(node, Depthwise) and node.has_bias,
                serial=self._serial(node),
            )
        )
        if self._serial(node):
            self.external.update((self._tensor(node.inputs[0]), self._tensor(node.name)))

    def _reshape(self, node: Reshape) -> None:
        source = self._tensor(node.inputs[0])
        shape = self.tensors[source]
        self.alias[node.name] = source
        if as_image(node.shape) != shape:
            self.external.add(source)  # the DPU re-reads it in memory order

    def _concat(self, node: Concat) -> None:
        whole = self._tensor(node.name)
        self.external.add(whole)
        made_by_layer = {layer.output for layer in self.layers}
        channel = 0
        for i, name in enumerate(node.inputs):
            part = self._tensor(name)
            joined = isinstance(self.graph.by_name[part], Concat) and len(self.consumers[name]) == 1
            if (part in made_by_layer or joined) and part not in self.written_into and part != self.graph.input.name:
                self.written_into[part] = whole
                self.first_channel[part] = channel
                self.external.add(part)
            else:
                self.first_channel[self._copy(node, i, part, whole)] = channel
            channel += self.graph.by_name[name].shape[-1]

    def _copy(self, node: Concat, index: int, part: str, whole: str) -> str:
        shape = self.tensors[part]
        name = f"{node.name}/copy{index}"
        self.tensors[name] = shape
        self.written_into[name] = whole
        self.external.add(name)
        self.layers.append(
            Layer(
                name=name,
                kind="copy",
                nodes=(node.name,),
                source=part,
                output=name,
                in_shape=shape,
                mid_shape=shape,
                out_shape=shape,
                window=Window(),
            )
        )
        return name


def _window(node: Depthwise | Pool) -> Window:
    dilation = node.dilation if isinstance(node, Depthwise) else (1, 1)
    return Window(node.kernel, node.stride, node.padding, dilation)
