"""Random networks of shapes that stretch a compiler: long images, many channels, large windows, odd strides, nested concats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from _random_networks import RandomNetwork

from edgesearch.board_eval.graph import (
    ActivationKind,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Pool,
    average_factor,
    window_output,
)

__all__ = ["KINDS", "extreme_network"]

_Pair = tuple[int, int]


class _Extreme(RandomNetwork):
    """Steps of a random network with sizes of one's own choice."""

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        import numpy as np

        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.open = []
        self.leaky = True
        self.put(Input(name="image", inputs=(), shape=shape, fix=self.pick(range(3, 8))))

    # -- nodes of given sizes; None where they do not fit

    def add_conv(
        self,
        x: str,
        channels: int,
        kernel: _Pair,
        stride: _Pair = (1, 1),
        padding: tuple[int, int, int, int] | None = None,
        activation: ActivationKind | None = None,
        dilation: _Pair = (1, 1),
    ) -> str | None:
        shape = self.shape(x)
        padding, size = self.sized(shape, kernel, stride, padding, dilation)
        if min(size) < 1 or kernel[0] * kernel[1] * -(-shape[2] // 8) > 2048:
            return None
        settings = self.weights((channels, *kernel, shape[2]), kernel[0] * kernel[1] * shape[2], self.fix(x))
        if activation is not None:
            settings["activation"] = activation
        return self.put(
            Conv(name=self.name("conv"), inputs=(x,), shape=(*size, channels), kernel=kernel, stride=stride, padding=padding,
                 dilation=dilation, **settings)  # type: ignore[arg-type]
        )  # fmt: skip

    def add_depthwise(
        self, x: str, kernel: _Pair, stride: _Pair = (1, 1), padding: tuple[int, int, int, int] | None = None
    ) -> str | None:
        shape = self.shape(x)
        padding, size = self.sized(shape, kernel, stride, padding)
        if min(size) < 1 or kernel[0] * kernel[1] > 2048:
            return None
        settings = self.weights((*kernel, shape[2]), kernel[0] * kernel[1], self.fix(x))
        settings["activation"] = self.pick(["none", "relu", "relu6"])
        return self.put(
            Depthwise(name=self.name("dw"), inputs=(x,), shape=(*size, shape[2]), kernel=kernel, stride=stride, padding=padding,
                      **settings)  # type: ignore[arg-type]
        )  # fmt: skip

    def add_pool(
        self, x: str, kind: str, kernel: _Pair, stride: _Pair, padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> str | None:
        shape = self.shape(x)
        padding, size = self.sized(shape, kernel, stride, padding)
        if min(size) < 1:
            return None
        return self.put(
            Pool(name=self.name(kind), inputs=(x,), shape=(*size, shape[2]), kernel=kernel, stride=stride, padding=padding,
                 kind="max" if kind == "max" else "avg", factor=average_factor(kernel) if kind == "avg" else 1.0,
                 fix=self.fix(x) + self.pick([0, 0, 0, -1, 1, 2]))
        )  # fmt: skip

    def add_sum(self, a: str, b: str, fix: int | None = None) -> str:
        if fix is None:
            fix = self.pick([self.fix(a), self.fix(b), min(self.fix(a), self.fix(b)) - 1, max(self.fix(a), self.fix(b)) + 1])
        return self.put(
            Add(name=self.name("add"), inputs=(a, b), shape=self.shape(a), fix=fix, activation=self.pick(["none", "relu"]))
        )

    def add_concat(self, *parts: str) -> str:
        channels = sum(self.shape(part)[2] for part in parts)
        fix = self.pick([min(self.fix(part) for part in parts), self.fix(parts[0])])
        return self.put(Concat(name=self.name("cat"), inputs=parts, shape=(*self.shape(parts[0])[:2], channels), fix=fix))

    def sized(
        self,
        shape: tuple[int, ...],
        kernel: _Pair,
        stride: _Pair,
        padding: tuple[int, int, int, int] | None,
        dilation: _Pair = (1, 1),
    ) -> tuple[tuple[int, int, int, int], _Pair]:
        """Padding, by default that which keeps the size, and the size of the output."""
        if padding is None:
            v, h = kernel[0] // 2 * dilation[0], kernel[1] // 2 * dilation[1]
            padding = (h, h, v, v)
        height = window_output(shape[0], padding[2] + padding[3], kernel[0], stride[0], dilation[0])
        width = window_output(shape[1], padding[0] + padding[1], kernel[1], stride[1], dilation[1])
        return padding, (height, width)

    def last(self) -> str:
        return self.nodes[-1].name

    def pads(self, kernel: _Pair) -> tuple[int, int, int, int]:
        """Any padding that a convolution takes."""
        v, h = range(kernel[0]), range(kernel[1])
        return self.pick(h), self.pick(h), self.pick(v), self.pick(v)


def _long(net: _Extreme) -> None:
    for _ in range(net.pick(range(3, 10))):
        net.step()


def _many_channels(net: _Extreme) -> None:
    for _ in range(net.pick(range(2, 5))):
        x = net.last()
        kernel = net.pick([(1, 1), (1, 1), (3, 3), (1, 3)])
        channels = net.pick([64, 500, 1000, 1024, 2000, 2048])
        match net.pick(["conv", "conv", "dw", "max", "sum", "cat"]):
            case "conv":
                net.add_conv(x, channels, kernel, net.pick([(1, 1), (2, 2)]))
            case "dw":
                net.add_depthwise(x, net.pick([(3, 3), (5, 5)]), net.pick([(1, 1), (2, 2)]))
            case "max":
                net.add_pool(x, "max", (2, 2), net.pick([(1, 1), (2, 2)]))
            case "sum":
                other = net.add_conv(x, net.shape(x)[2], (1, 1))
                if other is not None:
                    net.add_sum(other, x)
            case "cat":
                other = net.add_conv(x, 48, (1, 1))
                if other is not None and net.shape(x)[2] < 2000:
                    net.add_concat(x, other)


def _large_windows(net: _Extreme) -> None:
    for _ in range(net.pick(range(1, 4))):
        x = net.last()
        kernel = (net.pick(range(1, 17)), net.pick(range(1, 17)))
        stride = (net.pick(range(1, 9)), net.pick(range(1, 9)))
        if net.chance(0.5):
            stride = (net.pick([1, 2]), net.pick([1, 2]))
        padding = net.pads(kernel)
        match net.pick(["conv", "conv", "dw", "max", "avg"]):
            case "conv":
                net.add_conv(x, net.pick([1, 7, 16, 20, 33]), kernel, stride, padding)
            case "dw":
                net.add_depthwise(x, kernel, stride, padding)
            case kind:
                net.add_pool(x, kind, kernel, stride, padding)


def _large_pools(net: _Extreme) -> None:
    x = net.last()
    if net.chance(0.6):
        x = net.add_conv(x, net.pick([3, 16, 24, 40]), net.pick([(1, 1), (3, 3)])) or x
    height, width, _ = net.shape(x)
    kind = net.pick(["max", "avg"])
    if net.chance(0.6):
        net.add_pool(x, kind, (height, width), (1, 1) if net.chance(0.5) else (height, width))
    else:
        kernel = (net.pick(range(1, height + 1)), net.pick(range(1, width + 1)))
        net.add_pool(x, kind, kernel, (net.pick(range(1, kernel[0] + 4)), net.pick(range(1, kernel[1] + 4))))


def _residual(net: _Extreme) -> None:
    channels = net.pick([8, 16, 20, 32])
    x = net.add_conv("image", channels, (3, 3)) or "image"
    for _ in range(net.pick(range(2, 7))):
        stride = net.pick([(1, 1), (1, 1), (2, 2), (2, 1), (1, 2), (3, 3), (2, 3)])
        channels = net.pick([channels, channels, 2 * channels if channels < 100 else channels])
        kernel = net.pick([(3, 3), (1, 1), (5, 5), (3, 1)])
        first_strided = net.chance(0.5)
        y = net.add_conv(x, net.pick([8, channels]), kernel, stride if first_strided else (1, 1))
        if y is None:
            return
        if net.chance(0.4):
            y = net.add_depthwise(y, (3, 3)) or y
        y = net.add_conv(y, channels, (3, 3) if net.chance(0.5) else (1, 1), (1, 1) if first_strided else stride)
        if y is None:
            return
        short: str | None = x
        if stride != (1, 1) or net.shape(x)[2] != channels:
            short = net.add_conv(x, channels, (1, 1), stride, (0, 0, 0, 0))
        if short is None or net.shape(short) != net.shape(y):
            x = y
            continue
        x = net.add_sum(*((y, short) if net.chance(0.5) else (short, y)))
        if net.chance(0.2):
            x = net.add_pool(x, "max", (3, 3), (2, 2), (1, 1, 1, 1)) or x


def _nested(net: _Extreme) -> None:
    names = ["image"]
    for _ in range(net.pick(range(3, 10))):
        x = net.pick(names[-4:])
        match net.pick(["conv", "cat", "cat", "sum", "max", "activation"]):
            case "conv":
                made = net.add_conv(x, net.pick([3, 8, 16, 17]), net.pick([(1, 1), (3, 3)]))
            case "cat":
                same = [name for name in names if net.shape(name)[:2] == net.shape(x)[:2]]
                made = net.add_concat(x, *(net.pick(same) for _ in range(net.pick([1, 1, 2, 3]))))
                if net.shape(made)[2] > 400:
                    return
            case "sum":
                same = [name for name in names if net.shape(name) == net.shape(x)]
                made = net.add_sum(x, net.pick(same))
            case "max":
                made = net.add_pool(x, "max", (2, 2), net.pick([(1, 1), (2, 2)]), net.pick([(0, 0, 0, 0), (1, 0, 1, 0)]))
            case _:
                net.activation(x)
                made = net.last()
        if made is not None:
            names.append(made)


def _first_layer(net: _Extreme) -> None:
    channels = net.shape("image")[2]
    widest = max(1, 40 // channels)
    kernel = (net.pick(range(1, 9)), net.pick(range(1, min(16, widest) + 1)))
    stride = (net.pick([1, 1, 2, 2, 3, 4]), net.pick([1, 1, 2, 2, 3, 4, 5]))
    x = net.add_conv("image", net.pick([4, 16, 24]), kernel, stride, net.pads(kernel))
    if x is None:
        net.add_conv("image", 8, (1, 1))
        return
    match net.pick(["", "max", "sum", "dw", "two"]):
        case "max":
            net.add_pool(x, "max", (3, 3), (2, 2), (1, 1, 1, 1))
        case "sum":
            other = net.add_conv("image", net.shape(x)[2], kernel, stride, net.nodes[-1].padding)  # type: ignore[attr-defined]
            if other is not None:
                net.add_sum(other, x)
        case "dw":
            net.add_depthwise(x, (3, 3))
        case "two":
            net.add_conv("image", 5, (3, 3), (1, 1), net.pads((3, 3)))


def _dilated(net: _Extreme) -> None:
    for _ in range(2):
        d = (net.pick([1, 2, 3, 4]), net.pick([1, 2, 3, 5]))
        kernel = (net.pick([1, 2, 3]), net.pick([1, 2, 3]))
        v, h = (kernel[0] - 1) * d[0], (kernel[1] - 1) * d[1]
        padding = (net.pick(range(h + 1)), net.pick(range(h + 1)), net.pick(range(v + 1)), net.pick(range(v + 1)))
        net.add_conv(net.last(), net.pick([3, 16]), kernel, net.pick([(1, 1), (2, 2), (1, 2)]), padding, dilation=d)


def _shape(seed: int, heights: list[int], widths: list[int], channels: list[int]) -> tuple[int, int, int]:
    import random

    chosen = random.Random(seed)
    return chosen.choice(heights), chosen.choice(widths), chosen.choice(channels)


_Kind = tuple[Callable[[_Extreme], None], tuple[list[int], list[int], list[int]]]
_SMALL = list(range(1, 41))

#: Name -> steps, and sizes to choose from: heights, widths, channels.
KINDS: dict[str, _Kind] = {
    "wide": (_long, ([1, 2, 3], [200, 300, 333], [1, 3, 8])),
    "tall": (_long, ([200, 300, 333], [1, 2, 3], [1, 3, 8])),
    "large": (_long, ([160, 224], [160, 224], [3])),
    "many channels": (_many_channels, ([1, 2, 5, 7], [1, 3, 6, 7], [3, 64, 300, 512])),
    "large windows": (_large_windows, (_SMALL, _SMALL, [1, 3, 8, 17])),
    "large pools": (_large_pools, (list(range(1, 65)), list(range(1, 65)), [1, 3, 16, 33])),
    "residual": (_residual, (list(range(4, 50)), list(range(4, 50)), [3, 5])),
    "nested": (_nested, (list(range(1, 20)), list(range(1, 20)), [1, 3, 8, 16, 20])),
    "first layer": (_first_layer, (list(range(3, 50)), list(range(3, 50)), [1, 2, 3, 4, 6])),
    "input channels": (_long, (list(range(3, 20)), list(range(3, 20)), list(range(1, 71)))),
    "dilated": (_dilated, (list(range(6, 30)), list(range(6, 30)), [1, 3, 16])),
}


def extreme_network(seed: int) -> Graph:
    """The network of this seed, at least two nodes long; kinds take turns."""
    name = list(KINDS)[seed % len(KINDS)]
    steps, sizes = KINDS[name]
    while True:
        net = _Extreme(seed, _shape(seed, *sizes))
        steps(net)
        graph = net.finish(name)
        if len(graph.nodes) > 1 and math.prod(graph.output.shape) > 0:
            return dataclasses.replace(graph, name=f"{name.replace(' ', '-')}{seed}")
        seed += 1_000_003
