"""Names that the compiler gives: of a layer, a slash, and what the step is for. None may be that of another layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edgesearch.board_eval.graph import Graph, Node
from edgesearch.errors import CompileError

__all__ = ["check_free", "made_of"]


def made_of(graph: Graph, nodes: Iterable[Node]) -> Graph:
    """The graph with these nodes instead; raises CompileError where one that was added has the name of another."""
    made = tuple(nodes)
    names: set[str] = set()
    for node in made:
        check_free(node.name, names)
        names.add(node.name)
    return Graph(graph.name, made, graph.bits)


def check_free(name: str, taken: Collection[str]) -> None:
    """Raise CompileError where a step of the compiler's own would have the name of a layer."""
    if name in taken:
        raise CompileError(f"the compiler calls a step of its own {name!r}, and so is a layer called: rename that layer")
