"""Programs without code worth the name: every tensor in the workspace, one layer a node."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import (
    Add,
    Array,
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
    average_factor,
    weight_integers,
)
from edgesearch.board_eval.isa import End, encode
from edgesearch.board_eval.targets import DEFAULT_TARGET, Dpu
from edgesearch.board_eval.xmodel import (
    INPUT,
    OUTPUT,
    WORKSPACE,
    CompiledProgram,
    ConstantPlace,
    ProgramLayer,
    TensorPlace,
)

PAGE = 64


def program_of(graph: Graph, target: Dpu = DEFAULT_TARGET) -> CompiledProgram:
    parameters = bytearray()
    constants, tensors, used = {}, {}, 0
    for node in graph:
        size = math.prod(node.shape)
        if isinstance(node, Input):
            tensors[node.name] = TensorPlace(register=INPUT, address=48)
        elif node is graph.output:
            tensors[node.name] = TensorPlace(register=OUTPUT, address=0)
        else:
            tensors[node.name] = TensorPlace(register=WORKSPACE, address=used)
            used += size
        if isinstance(node, Conv | Depthwise | Linear):
            constants[node.name] = _constants(graph, node, parameters)
    return CompiledProgram(
        graph=graph,
        target=target,
        code=encode([End()]),
        parameters=bytes(parameters) or bytes(PAGE),
        workspace_bytes=used,
        input_bytes=48 + math.prod(graph.input.shape),
        output_bytes=math.prod(graph.output.shape),
        layers=tuple(ProgramLayer(nodes=(n.name,)) for n in graph if not isinstance(n, Input | Concat | Reshape)),
        tensors=tensors,
        constants=constants,
    )


def _constants(graph: Graph, node: Conv | Depthwise | Linear, parameters: bytearray) -> ConstantPlace:
    weight, bias = weight_integers(node)
    addresses: list[int] = []
    for values in (bias, weight):
        if values is not None:
            parameters.extend(bytes(-len(parameters) % PAGE))
            addresses.append(len(parameters))
            parameters.extend(values.astype(np.int8).tobytes())
    return ConstantPlace(weight=addresses[-1], bias=addresses[0] if bias is not None else None)


def as_compiled(graph: Graph) -> Graph:
    """The same network with what a compiled file can say: 8 bits, the DPU's averages, biases no finer than the accumulator."""

    def change(node: Node) -> Node:
        if isinstance(node, Pool) and node.kind == "avg":
            return dataclasses.replace(node, factor=average_factor(node.kernel))
        if isinstance(node, Conv | Depthwise | Linear) and node.bias is not None:
            finest = (graph.fix_of(node.inputs[0]) or 0) + (node.weight_fix or 0) + 1
            if (node.bias_fix or 0) > finest:
                bias = np.ldexp(np.floor(np.ldexp(node.bias, finest)), -finest).astype(np.float32)
                return dataclasses.replace(node, bias=bias, bias_fix=finest)
        return node

    return Graph(graph.name, graph.map(change).nodes)


def everything(*, vector: bool = True) -> Graph:
    """A network with every operation that AMD's files have and a Graph can hold, its result a vector or an image."""
    nodes: list[Node] = [Input(name="in", inputs=(), shape=(8, 8, 3), fix=6)]
    rng = np.random.default_rng(0)

    def integers(*shape: int) -> Array:
        return (rng.integers(-128, 128, shape) / 64).astype(np.float32)

    def conv(name: str, source: str, shape: Shape, channels: int, kernel: int = 3, stride: int = 1, **more: Any) -> None:
        weight = integers(shape[2], kernel, kernel, channels)
        pad = kernel // 2
        window = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (pad, pad, pad, pad)}
        layer = {"weight": weight, "bias": integers(shape[2]), "weight_fix": 6, "bias_fix": 6, "fix": 2}
        nodes.append(Conv(name=name, inputs=(source,), shape=shape, **{**layer, **window, **more}))

    def depthwise(name: str, source: str, shape: Shape, stride: int) -> None:
        window = {"kernel": (3, 3), "stride": (stride, stride), "padding": (1, 1, 1, 1)}
        layer = {"weight": integers(3, 3, shape[2]), "bias": integers(shape[2]), "weight_fix": 6, "bias_fix": 6, "fix": 1}
        nodes.append(Depthwise(name=name, inputs=(source,), shape=shape, activation="relu", **layer, **window))

    conv("stem", "in", (8, 8, 4), 3, activation="relu")
    nodes.append(
        Pool(name="pool", inputs=("stem",), shape=(4, 4, 4), kind="max", kernel=(2, 2), stride=(2, 2), ceil_mode=True, fix=2)
    )
    conv("wide", "pool", (4, 4, 6), 4, 1, activation="relu", bias_fix=12, bias=integers(6) / 64)
    depthwise("dw", "wide", (4, 4, 6), 1)
    depthwise("dw_alone", "dw", (4, 4, 6), 1)
    conv("narrow", "dw_alone", (4, 4, 4), 6, 1)
    nodes.append(Add(name="add", inputs=("narrow", "pool"), shape=(4, 4, 4), activation="relu", fix=1))
    conv("left", "add", (4, 4, 3), 4)
    conv("right", "add", (4, 4, 5), 4, 1, has_bias=False, bias=None, bias_fix=None)
    nodes.append(Concat(name="concat", inputs=("left", "right"), shape=(4, 4, 8), fix=2))
    nodes.append(Pool(name="step", inputs=("concat",), shape=(2, 2, 8), kind="max", kernel=(1, 1), stride=(2, 2), fix=2))
    if vector:
        fixed = {"kind": "avg", "kernel": (2, 2), "stride": (2, 2), "factor": average_factor((2, 2)), "fix": 3}
        nodes.append(Pool(name="mean", inputs=("step",), shape=(1, 1, 8), **fixed))
        nodes.append(Reshape(name="flat", inputs=("mean",), shape=(8,)))
        layer = {"weight": integers(5, 8), "bias": integers(5), "weight_fix": 6, "bias_fix": 6, "fix": 1}
        nodes.append(Linear(name="fc", inputs=("flat",), shape=(5,), **layer))
    return Graph("Everything", tuple(nodes))


def fused(graph: Graph, *layers: tuple[str, ...], augmented: frozenset[str] = frozenset()) -> CompiledProgram:
    """The program with these layers fused: all but the last node of each lie on chip; what comes by itself keeps its layer."""
    program = program_of(graph)
    first = {names[0]: names for names in layers}
    within = {name for names in layers for name in names[1:]}
    order = [first.get(layer.nodes[0], layer.nodes) for layer in program.layers if layer.nodes[0] not in within]
    inner = {name: TensorPlace(on_chip=True) for names in layers for name in names[:-1]}
    return dataclasses.replace(
        program,
        layers=tuple(ProgramLayer(nodes=names) for names in order),
        tensors={**program.tensors, **inner},
        augmented=augmented,
    )


def everything_fused(*, vector: bool = True) -> CompiledProgram:
    """`everything` with the fusions of AMD's files."""
    return fused(everything(vector=vector), ("stem", "pool"), ("wide", "dw"), ("narrow", "add"), augmented=frozenset({"stem"}))
