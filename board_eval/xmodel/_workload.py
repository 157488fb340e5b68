"""Operations that a compiled file claims for each of its layers, as AMD's compiler counts them.

A multiplication and its addition are two, a bias is one. On the DPU the rows of a tensor are done several at a time and its
channels in full words, so that the numbers grow to multiples of both.
"""

from __future__ import annotations

import math

from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Linear, Node, Pool, Shape
from edgesearch.board_eval.targets import Dpu

__all__ = ["workloads"]


def workloads(node: Node, source: Shape, target: Dpu, *, augmented: bool = False) -> tuple[int, int] | None:
    """Operations of `node`, which reads a tensor of shape `source`: alone, and on the DPU; None for what only moves data.

    `augmented`: the columns of the kernel are done as input channels, and count as one.
    """
    height, width, channels = node.shape if len(node.shape) == 3 else (1, 1, node.shape[0])
    inputs, rows = source[-1], target.alu_rows
    on_dpu = inputs
    match node:
        case Conv() | Linear():
            kernel = node.kernel if isinstance(node, Conv) else (1, 1)
            rows = target.pixel_parallel
            taps = kernel[0] if augmented else math.prod(kernel)
            inputs //= node.groups if isinstance(node, Conv) else 1
            alone = 2 * math.prod(kernel) * inputs + 1
            on_dpu = 2 * taps * _up(inputs, target.input_parallel) + 1
        case Depthwise():
            alone = on_dpu = 2 * math.prod(node.kernel) + 1
        case Pool(kind="max", kernel=(1, 1)) if node.stride != (1, 1):
            return None
        case Pool():
            alone = on_dpu = math.prod(node.kernel) * (2 if node.kind == "avg" else 1)
        case Add() | Activation():
            alone = on_dpu = len(node.inputs)
        case _:
            return None
    elements = height * width * channels
    return elements * alone, _up(height, rows) * width * _up(channels, target.output_parallel) * on_dpu


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
