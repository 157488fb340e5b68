"""The result apart: what is written into its memory is read by nobody but the one who asked for it.

Compiled files only save there. A part of the result that other layers read, too, gets a copy of its own.
"""

from __future__ import annotations

import dataclasses

from edgesearch.board_eval.compiler._names import made_of
from edgesearch.board_eval.graph import Activation, Concat, Graph, Input, Node, Reshape

__all__ = ["with_result_apart"]


def with_result_apart(graph: Graph) -> Graph:
    """The same network, with copies of what is both a part of the result and read elsewhere."""
    inside = _inside(graph)
    nodes: list[Node] = []
    for node in graph:
        if node.name in inside:
            inputs = []
            for i, name in enumerate(node.inputs):
                source = graph.by_name[name]
                alone = len(graph.consumers[name]) == 1 and node.inputs.count(name) == 1
                if alone or isinstance(source, Input):
                    inputs.append(name)
                    continue
                copy = f"{node.name}/result{i}"
                fix = graph.fix_of(name)
                nodes.append(Activation(name=copy, inputs=(name,), shape=source.shape, activation="none", fix=fix))
                inputs.append(copy)
            node = dataclasses.replace(node, inputs=tuple(inputs))
        nodes.append(node)
    return made_of(graph, nodes)


def _inside(graph: Graph) -> set[str]:
    """The concats and reshapes whose operands lie in the memory of the result."""
    found: set[str] = set()
    open_nodes: list[Node] = [graph.output]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, Concat | Reshape):
            found.add(node.name)
            open_nodes += [graph.by_name[name] for name in node.inputs if len(graph.consumers[name]) == 1]
    return found
