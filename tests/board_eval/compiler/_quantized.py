"""One or two quantized layers with chosen positions and random integers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from edgesearch.board_eval.graph import (
    Activation,
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
    average_factor,
    window_output,
)

_WINDOW = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "weight_fix": 6, "bias_fix": 4}


class Quantized:
    """Adds nodes one by one, each with the fix position that is asked for; every method returns a name."""

    def __init__(self, *shape: int, fix: int = 5, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.put(Input(name="image", inputs=(), shape=shape, fix=fix))

    def put(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def graph(self) -> Graph:
        return Graph("quantized", tuple(self.nodes))

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def integers(self, shape: tuple[int, ...], fix: int, largest: int = 127) -> np.ndarray:
        return np.ldexp(self.random.integers(-largest, largest + 1, shape), -fix).astype(np.float32)

    def _window(self, x: str, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[int, int]:
        height, width, _ = self.node(x).shape
        return (
            window_output(height, padding[2] + padding[3], kernel[0], stride[0], dilation[0]),
            window_output(width, padding[0] + padding[1], kernel[1], stride[1], dilation[1]),
        )

    def conv(self, x: str, channels: int, kernel: tuple[int, int] = (1, 1), *, fix: int = 3, **options: Any) -> str:
        options = {**_WINDOW, **options}
        size = self._window(x, kernel, options["stride"], options["padding"], options["dilation"])
        weight = self.integers((channels, *kernel, self.node(x).shape[2]), options["weight_fix"])
        bias = self.integers((channels,), options["bias_fix"])
        name = f"conv{len(self.nodes)}"
        return self.put(
            Conv(name=name, inputs=(x,), shape=(*size, channels), kernel=kernel, fix=fix, weight=weight, bias=bias, **options)
        )

    def depthwise(self, x: str, kernel: tuple[int, int] = (3, 3), *, fix: int = 3, **options: Any) -> str:
        options = {**_WINDOW, **options}
        size, channels = (
            self._window(x, kernel, options["stride"], options["padding"], options["dilation"]),
            self.node(x).shape[2],
        )
        weight, bias = (
            self.integers((*kernel, channels), options["weight_fix"]),
            self.integers((channels,), options["bias_fix"]),
        )
        name = f"dw{len(self.nodes)}"
        return self.put(
            Depthwise(
                name=name, inputs=(x,), shape=(*size, channels), kernel=kernel, fix=fix, weight=weight, bias=bias, **options
            )
        )

    def pool(self, x: str, kind: Any, kernel: tuple[int, int], *, fix: int = 5, **options: Any) -> str:
        options = {"stride": (1, 1), "padding": (0, 0, 0, 0), **options}
        size, channels = self._window(x, kernel, options["stride"], options["padding"], (1, 1)), self.node(x).shape[2]
        factor = average_factor(kernel) if kind == "avg" else 1.0
        name = f"pool{len(self.nodes)}"
        return self.put(
            Pool(name=name, inputs=(x,), shape=(*size, channels), kind=kind, kernel=kernel, factor=factor, fix=fix, **options)
        )

    def add(self, a: str, b: str, *, fix: int = 4, activation: Any = "none") -> str:
        name = f"add{len(self.nodes)}"
        return self.put(Add(name=name, inputs=(a, b), shape=self.node(a).shape, fix=fix, activation=activation))

    def activation(self, x: str, kind: Any, *, fix: int | None = 4) -> str:
        name = f"act{len(self.nodes)}"
        return self.put(Activation(name=name, inputs=(x,), shape=self.node(x).shape, activation=kind, fix=fix))

    def concat(self, *parts: str, fix: int = 3) -> str:
        shapes = [self.node(part).shape for part in parts]
        shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        name = f"cat{len(self.nodes)}"
        return self.put(Concat(name=name, inputs=parts, shape=shape, axis=len(shape) - 1, fix=fix))

    def reshape(self, x: str, *shape: int) -> str:
        return self.put(Reshape(name=f"shape{len(self.nodes)}", inputs=(x,), shape=shape or (math.prod(self.node(x).shape),)))

    def linear(self, x: str, out: int, *, fix: int = 3, activation: Any = "none") -> str:
        weight, bias = self.integers((out, self.node(x).shape[0]), 7), self.integers((out,), 4)
        return self.put(
            Linear(name=f"fc{len(self.nodes)}", inputs=(x,), shape=(out,), fix=fix, weight=weight, bias=bias, weight_fix=7,
                   bias_fix=4, activation=activation)
        )  # fmt: skip

    def change(self, name: str, **fields: Any) -> None:
        """Another value of some fields of a node."""
        self.nodes = [dataclasses.replace(node, **fields) if node.name == name else node for node in self.nodes]
