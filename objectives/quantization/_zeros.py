"""Zeros of a sparse network, behind a quantizer that moves weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, Node

__all__ = ["with_zeros_of"]


def with_zeros_of(exact: Graph, quantized: Graph) -> Graph:
    """`quantized` with zero weights wherever those of the float Graph that it was made from are zero.

    Learnt rounding moves weights by less than a step of their grid, and takes some from 0 to 1 or -1.
    """
    given = {node.name: node.weight for node in exact if isinstance(node, Conv | Depthwise | Linear)}

    def put(node: Node) -> Node:
        if not isinstance(node, Conv | Depthwise | Linear) or (own := given.get(node.name)) is None:
            return node
        assert node.weight is not None
        return dataclasses.replace(node, weight=np.where(own == 0, np.float32(0), node.weight))

    return quantized.map(put)
