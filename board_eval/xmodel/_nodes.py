"""What a Graph's nodes have and operations of XIR do not, in a field of our own beside the operations, which XIR skips."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgesearch.board_eval.graph import Graph, Node
from edgesearch.errors import XmodelError

__all__ = ["store_nodes", "stored_nodes"]

#: Fields of nodes that are stored: what they say of a node cannot be read from its operations.
_MARKS = ("scale", "keeps_clip")


def store_nodes(root: Any, graph: Graph, names: Mapping[str, tuple[str, ...]]) -> None:
    """Keep the nodes' names and marks in the root subgraph, unless the operations, which have `names`, say it all."""
    if any(node.name != names[node.name][-1] or not node.op_names or _marks(node, node) for node in graph):
        for node in graph:
            root.edgesearch_node.add(name=node.name, derived=names[node.name] != node.op_names, **_marks(node, node))


def stored_nodes(root: Any, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, in their order, with the names and marks they had when this program wrote the file.

    Raises XmodelError where those that were stored are not the nodes of the operations.
    """
    stored = list(root.edgesearch_node)
    if not stored:
        return tuple(nodes)
    if len(stored) != len(nodes) or len({s.name for s in stored}) != len(nodes):
        raise XmodelError(f"it names {len(stored)} nodes and holds {len(nodes)}; the file was changed after it was written")
    new = {node.name: s.name for node, s in zip(nodes, stored, strict=True)}
    return tuple(
        dataclasses.replace(
            node,
            name=s.name,
            inputs=tuple(new[source] for source in node.inputs),
            op_names=() if s.derived else node.op_names,
            **_marks(s, node),
        )
        for node, s in zip(nodes, stored, strict=True)
    )


def _marks(said: Any, node: Node) -> dict[str, Any]:
    """The marks that `said` has, of those that such a node can have."""
    return {mark: True for mark in _MARKS if hasattr(node, mark) and getattr(said, mark)}
