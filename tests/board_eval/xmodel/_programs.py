"""Programs without code worth the name: every tensor in the workspace, one layer a node."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from edgesearch.board_eval.graph import (
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
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
