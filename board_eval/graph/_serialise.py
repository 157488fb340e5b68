"""A Graph as JSON and arrays, for keeping it in files: any Graph, quantized or not, at any number of bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import _graph
from edgesearch.board_eval.graph._graph import Array, Graph, Node
from edgesearch.errors import GraphError

_TYPES: Mapping[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        _graph.Input,
        _graph.Conv,
        _graph.Depthwise,
        _graph.Linear,
        _graph.Pool,
        _graph.Add,
        _graph.Concat,
        _graph.Activation,
        _graph.Reshape,
    )
}


def graph_to_json(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """The structure as JSON, and the arrays by "NODE/weight" and "NODE/bias"."""
    arrays: dict[str, Array] = {}
    nodes = []
    for node in graph:
        fields: dict[str, Any] = {"type": type(node).__name__}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"{node.name}/{field.name}"] = value
            elif value is not None:
                fields[field.name] = value
        nodes.append(fields)
    return {"name": graph.name, "bits": graph.bits, "nodes": nodes}, arrays


def graph_from_json(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Graph:
    """The inverse of `graph_to_json`; raises GraphError when the content is not a Graph."""
    nodes = []
    try:
        for fields in content["nodes"]:
            kind = _TYPES[fields["type"]]
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items() if key != "type"}
            for name in ("weight", "bias"):
                if f"{values['name']}/{name}" in arrays:
                    values[name] = arrays[f"{values['name']}/{name}"]
            nodes.append(kind(**values))
        return Graph(str(content["name"]), tuple(nodes), int(content["bits"]))
    except (KeyError, TypeError) as error:
        raise GraphError(f"a stored network cannot be read: {error}; compute it again") from error
