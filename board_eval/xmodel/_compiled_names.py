"""Names of operations in compiled xmodels, in the manner of AMD's compiler: from those of the uncompiled file."""

from __future__ import annotations

from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Input, Linear, Node, Pool, Reshape, op_names

__all__ = ["compiled_dims", "operation_names"]


def operation_names(graph: Graph) -> dict[str, str]:
    """Node -> the operation whose tensor is its value, in the file that `write_compiled` makes of it.

    A reshape that only adds or drops dimensions of 1 is no operation: it has the name of what it reads. An input has the name
    of its upload, under which `read_compiled` lists its tensor.
    """
    names = op_names(graph)
    out: dict[str, str] = {}
    for node in graph:
        own = names[node.name]
        match node:
            case Input():
                out[node.name] = f"{own[0]}_upload_0"
            case Conv() | Depthwise() | Linear():
                out[node.name] = own[-1 - int(node.activation != "none")]
            case Pool():
                out[node.name] = f"{own[-1]}_fix"
            case Reshape() if compiled_dims(node) == compiled_dims(graph.by_name[node.inputs[0]]):
                out[node.name] = out[node.inputs[0]]
            case _:
                out[node.name] = own[0]
    return out


def compiled_dims(node: Node) -> tuple[int, ...]:
    """Dimensions of its tensor on the DPU: always four, a vector as an image of one pixel."""
    return (1, *node.shape) if len(node.shape) == 3 else (1, 1, 1, *node.shape)
