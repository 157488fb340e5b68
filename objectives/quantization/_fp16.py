"""Float16 weights, for analysis: what a device with half precision would lose. The DPU cannot run them."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, Node
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization._checks import check_graph

BITS = 16


def quantize_fp16(graph: Graph) -> Graph:
    """The float Graph with weights and biases rounded to float16, without fix positions and with `bits` 16.

    Evaluate it with `run_float`. Raises QuantizationError for weights that are missing, not finite, or too large for float16
    (65504).
    """
    check_graph(graph)

    def put(node: Node) -> Node:
        if not isinstance(node, Conv | Depthwise | Linear):
            return node
        assert node.weight is not None
        weight = _to_half(node.name, "weight", node.weight)
        bias = None if node.bias is None else _to_half(node.name, "bias", node.bias)
        return dataclasses.replace(node, weight=weight, bias=bias)

    return dataclasses.replace(graph.map(put), bits=BITS)


def _to_half(
    layer: str, what: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise QuantizationError(f"layer {layer!r}: {what} reaches {np.abs(values).max():g}, float16 holds 65504 at most")
    return half.astype(np.float32)
