"""Integer execution again, slow and obvious: exact fractions, one element at a time, one rounding where a fix position is.

It exists to be compared with `_execute`, with which it shares nothing but the Graph and the two roundings.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import (
    LEAKY_SLOPE,
    Activation,
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    half_up,
    limits,
    weight_integers,
)

#: Real values as fractions.
_Reals = npt.NDArray[np.object_]


def reference_values(graph: Graph, image: npt.NDArray[np.int8]) -> dict[str, npt.NDArray[np.int64]]:
    """Node -> integers at its fix position, for one quantized image (H, W, C); nodes without a position are left out."""
    reals: dict[str, _Reals] = {}
    out: dict[str, npt.NDArray[np.int64]] = {}
    for node in graph:
        if isinstance(node, Input):
            value = _real(image.astype(np.int64), node.fix or 0)
        else:
            value = _compute(node, [reals[source] for source in node.inputs], graph.bits)
        if node.fix is not None and not isinstance(node, Reshape):
            out[node.name] = _rounded(value, node.fix, graph.bits)
            value = _real(out[node.name], node.fix)
        reals[node.name] = value
    return out


def _real(integers: npt.NDArray[np.int64], fix: int) -> _Reals:
    out = np.empty(integers.shape, object)
    for index in np.ndindex(integers.shape):
        out[index] = int(integers[index]) * Fraction(2) ** -fix
    return out


def _rounded(reals: _Reals, fix: int, bits: int) -> npt.NDArray[np.int64]:
    low, high = limits(bits)
    out = np.empty(reals.shape, np.int64)
    for index in np.ndindex(reals.shape):
        value = reals[index]
        out[index] = low if value == -math.inf else min(max(half_up(value * Fraction(2) ** fix), low), high)
    return out


def _compute(node: Node, sources: list[_Reals], bits: int) -> _Reals:
    match node:
        case Conv() | Depthwise() | Linear():
            weight, bias = weight_integers(node, bits, per_channel=True)
            weights = _real(weight, node.weight_fix or 0)
            biases = np.full(node.shape[-1], Fraction(0), object) if bias is None else _real(bias, node.bias_fix or 0)
            return _activated(_layer(node, sources[0], weights) + biases, node.activation)
        case Pool():
            return _pool(node, sources[0])
        case Add():
            return _activated(sources[0] + sources[1], node.activation)
        case Concat():
            return np.concatenate(sources, axis=node.axis)
        case Activation():
            return _activated(sources[0], node.activation)
        case _:
            return sources[0].reshape(node.shape)


def _activated(values: _Reals, kind: ActivationKind) -> _Reals:
    functions: dict[str, Any] = {
        "none": lambda v: v,
        "relu": lambda v: max(v, Fraction(0)),
        "relu6": lambda v: min(max(v, Fraction(0)), Fraction(6)),
        "leaky_relu": lambda v: v if v >= 0 else v * Fraction(LEAKY_SLOPE),
    }
    out = np.empty(values.shape, object)
    for index in np.ndindex(values.shape):
        out[index] = functions[kind](values[index])
    return out


def _layer(node: Conv | Depthwise | Linear, x: _Reals, weight: _Reals) -> _Reals:
    out = np.full(node.shape, Fraction(0), object)
    if isinstance(node, Linear):
        for o, i in itertools.product(range(node.shape[0]), range(len(x))):
            out[o] += weight[o, i] * x[i]
        return out
    for row, column, dy, dx in itertools.product(*(range(n) for n in (*node.shape[:2], *node.kernel))):
        y = row * node.stride[0] + dy * node.dilation[0] - node.padding[2]
        z = column * node.stride[1] + dx * node.dilation[1] - node.padding[0]
        if not (0 <= y < x.shape[0] and 0 <= z < x.shape[1]):
            continue
        for channel in range(node.shape[2]):
            if isinstance(node, Depthwise):
                out[row, column, channel] += weight[dy, dx, channel] * x[y, z, channel]
            else:
                for i in range(x.shape[2]):
                    out[row, column, channel] += weight[channel, dy, dx, i] * x[y, z, i]
    return out


def _pool(node: Pool, x: _Reals) -> _Reals:
    out = np.empty(node.shape, object)
    for row, column, channel in np.ndindex(*node.shape):
        window = [
            x[y, z, channel]
            for dy, dx in np.ndindex(*node.kernel)
            if 0 <= (y := row * node.stride[0] + dy - node.padding[2]) < x.shape[0]
            and 0 <= (z := column * node.stride[1] + dx - node.padding[0]) < x.shape[1]
        ]
        if node.kind == "max":
            out[row, column, channel] = max(window, default=-math.inf)
        else:
            out[row, column, channel] = sum(window, Fraction(0)) * Fraction(node.factor) / math.prod(node.kernel)
    return out
