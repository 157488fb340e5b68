"""Strides of 1x1 convolutions, moved back to what makes their input: values that nobody reads are not computed.

The compiler does so where all readers of a tensor are 1x1 convolutions of one stride: the published time of Keras's ResNet-50,
whose stages begin with such convolutions, is that of the smaller work (benchmarks/timing_zoo.py).
"""

from __future__ import annotations

import dataclasses

from edgesearch.board_eval.graph import Add, Conv, Graph, Node, Pool, Shape

#: What a convolution takes, whatever the size of the DPU.
_LARGEST_STRIDE = 8


def strides_moved_back(graph: Graph) -> Graph:
    """The graph with every such stride where its input is made, from the last node to the first."""
    nodes = {node.name: node for node in graph.nodes}
    added: dict[str, list[Node]] = {}
    changed = False
    for node in reversed(graph.nodes):
        stride = _stride_of_readers(graph, nodes, node.name)
        if stride is None:
            continue
        thinned = _thinned(graph, nodes, nodes[node.name], stride, added)
        if thinned is None:
            continue
        changed = True
        nodes[node.name] = thinned
        for reader in graph.consumers[node.name]:
            moved = nodes[reader.name]
            assert isinstance(moved, Conv)
            nodes[reader.name] = dataclasses.replace(moved, stride=(1, 1))
    if not changed:
        return graph
    ordered = [part for node in graph.nodes for part in (*added.get(node.name, ()), nodes[node.name])]
    return Graph(graph.name, tuple(ordered), graph.bits)


def _stride_of_readers(graph: Graph, nodes: dict[str, Node], name: str) -> tuple[int, int] | None:
    """The one stride of all readers, if they are 1x1 convolutions without padding and it is more than 1."""
    strides = set()
    for reader in graph.consumers[name]:
        node = nodes[reader.name]
        if not isinstance(node, Conv) or node.kernel != (1, 1) or node.padding != (0, 0, 0, 0):
            return None
        strides.add(node.stride)
    return strides.pop() if len(strides) == 1 and strides != {(1, 1)} else None


def _thinned(
    graph: Graph, nodes: dict[str, Node], node: Node, stride: tuple[int, int], added: dict[str, list[Node]]
) -> Node | None:
    """The node that makes only every `stride`-th value, None where the compiler leaves it as it is."""
    if isinstance(node, Conv):
        if max(node.stride[0] * stride[0], node.stride[1] * stride[1]) > _LARGEST_STRIDE:
            return None
        shape = _every(node.shape, stride)
        return dataclasses.replace(node, stride=(node.stride[0] * stride[0], node.stride[1] * stride[1]), shape=shape)
    if not isinstance(node, Add) or node.inputs[0] == node.inputs[1]:
        return None
    operands = [nodes[name] for name in node.inputs]
    own = [
        isinstance(operand, Conv)
        and len(graph.consumers[operand.name]) == 1
        and max(operand.stride[0] * stride[0], operand.stride[1] * stride[1]) <= _LARGEST_STRIDE
        for operand in operands
    ]
    if not any(own):
        return None
    inputs = []
    for operand, alone in zip(operands, own, strict=True):
        shape = _every(operand.shape, stride)
        if alone and isinstance(operand, Conv):
            both = (operand.stride[0] * stride[0], operand.stride[1] * stride[1])
            nodes[operand.name] = dataclasses.replace(operand, stride=both, shape=shape)
            inputs.append(operand.name)
        else:
            name = f"{operand.name}/every{stride[0]}x{stride[1]}/{node.name}"
            thin = Pool(
                name=name, inputs=(operand.name,), shape=shape, kind="max", kernel=(1, 1), stride=stride, fix=operand.fix
            )
            added.setdefault(node.name, []).append(thin)
            inputs.append(name)
    return dataclasses.replace(node, inputs=tuple(inputs), shape=_every(node.shape, stride))


def _every(shape: Shape, stride: tuple[int, int]) -> Shape:
    return (-(-shape[0] // stride[0]), -(-shape[1] // stride[1]), shape[2])
