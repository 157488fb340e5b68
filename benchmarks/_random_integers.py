"""A network of shapes made a quantized one: random integers as weights, and fix positions that keep values in range."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Input, Linear, Node, Pool, Reshape, average_factor, part_mask

__all__ = ["with_random_integers"]

#: Fix position of the image and of all feature maps.
_IMAGE = 6
#: Spread of random integers, about.
_SPREAD = 64


def with_random_integers(graph: Graph, seed: int = 0) -> Graph:
    """The same network, every node with a fix position and every layer with random weights; nothing is measured."""
    random = np.random.default_rng(seed)
    fixes: dict[str, int] = {}
    nodes: list[Node] = []
    for node in graph:
        fix = min((fixes[name] for name in node.inputs), default=_IMAGE)
        match node:
            case Input():
                node = dataclasses.replace(node, fix=fix)
            case Conv() | Depthwise() | Linear():
                node = _weighted(node, graph.by_name[node.inputs[0]].shape[-1], fix, random)
            case Pool():
                node = dataclasses.replace(node, fix=fix, factor=average_factor(node.kernel) if node.kind == "avg" else 1.0)
            case Reshape():
                pass
            case _:
                node = dataclasses.replace(node, fix=fix)
        fixes[node.name] = fix if node.fix is None else node.fix
        nodes.append(node)
    return Graph(graph.name, tuple(nodes), graph.bits)


def _weighted(node: Conv | Depthwise | Linear, channels: int, fix_in: int, random: np.random.Generator) -> Node:
    out = node.shape[-1]
    kernel = () if isinstance(node, Linear) else node.kernel
    shape = (*kernel, out) if isinstance(node, Depthwise) else (out, *kernel, channels)
    fan = math.prod(shape) // out
    weight_fix = round(math.log2(math.sqrt(fan) * _SPREAD))  # sums spread as what they are made of
    weight = _integers(random, shape, weight_fix)
    own = part_mask(out, channels, node.groups, node.picks) if isinstance(node, Conv) else None
    if own is not None:
        weight *= own[:, None, None]
    return dataclasses.replace(
        node,
        fix=fix_in,
        weight=weight,
        bias=_integers(random, (out,), fix_in + 1) if node.has_bias else None,
        weight_fix=weight_fix,
        bias_fix=fix_in + 1 if node.has_bias else None,
    )


def _integers(random: np.random.Generator, shape: tuple[int, ...], fix: int) -> np.ndarray:
    return np.ldexp(random.integers(-128, 128, shape), -fix).astype(np.float32)
