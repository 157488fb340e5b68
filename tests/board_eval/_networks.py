"""Small networks for the tests of schedule and timing: shapes only, no weights."""

from __future__ import annotations

import math

from edgesearch.board_eval.graph._graph import (
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
)


class Net:
    """Adds nodes one by one; every method returns a name."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {"image": (height, width, channels)}
        self.nodes: list[Node] = [Input(name="image", inputs=(), shape=(height, width, channels))]

    def put(self, node: Node) -> str:
        self.nodes.append(node)
        self.shapes[node.name] = node.shape
        return node.name

    def _out(self, x: str, k: int, s: int, p: int) -> tuple[int, int]:
        height, width = self.shapes[x][:2]
        return (height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1

    def conv(self, x: str, channels: int, k: int = 3, s: int = 1, name: str = "") -> str:
        p = k // 2
        shape = (*self._out(x, k, s, p), channels)
        name = name or f"conv{len(self.nodes)}"
        return self.put(Conv(name=name, inputs=(x,), shape=shape, kernel=(k, k), stride=(s, s), padding=(p, p, p, p)))

    def depthwise(self, x: str, k: int = 3, s: int = 1) -> str:
        p = k // 2
        shape = (*self._out(x, k, s, p), self.shapes[x][2])
        name = f"dw{len(self.nodes)}"
        return self.put(Depthwise(name=name, inputs=(x,), shape=shape, kernel=(k, k), stride=(s, s), padding=(p, p, p, p)))

    def pool(self, x: str, kind: str = "max", k: int = 2, s: int = 2) -> str:
        shape = (*self._out(x, k, s, 0), self.shapes[x][2])
        return self.put(
            Pool(name=f"pool{len(self.nodes)}", inputs=(x,), shape=shape, kind="max" if kind == "max" else "avg", kernel=(k, k),
                 stride=(s, s))
        )  # fmt: skip

    def add(self, a: str, b: str) -> str:
        return self.put(Add(name=f"add{len(self.nodes)}", inputs=(a, b), shape=self.shapes[a]))

    def relu(self, x: str) -> str:
        return self.put(Activation(name=f"relu{len(self.nodes)}", inputs=(x,), shape=self.shapes[x], activation="relu"))

    def concat(self, *parts: str) -> str:
        shape = (*self.shapes[parts[0]][:2], sum(self.shapes[p][2] for p in parts))
        return self.put(Concat(name=f"cat{len(self.nodes)}", inputs=parts, shape=shape))

    def flatten(self, x: str) -> str:
        return self.put(Reshape(name=f"flat{len(self.nodes)}", inputs=(x,), shape=(math.prod(self.shapes[x]),)))

    def linear(self, x: str, features: int) -> str:
        return self.put(Linear(name=f"fc{len(self.nodes)}", inputs=(x,), shape=(features,)))

    def head(self, x: str, classes: int = 10) -> Graph:
        height, width, channels = self.shapes[x]
        pool = Pool(
            name="gap", inputs=(x,), shape=(1, 1, channels), kind="avg", kernel=(height, width), stride=(1, 1), is_global=True
        )
        self.linear(self.flatten(self.put(pool)), classes)
        return self.graph()

    def graph(self) -> Graph:
        return Graph("net", tuple(self.nodes))


def residual_net(size: int, widths: tuple[int, int, int], channels: int = 3) -> Graph:
    """A stem, a residual block with a strided shortcut, a branch with a concat, a depthwise block, a head."""
    net = Net(size, size, channels)
    x = net.pool(net.conv("image", widths[0], 3, 1), "max")
    y = net.conv(net.conv(x, widths[1], 3, 2), widths[2], 3)
    x = net.add(y, net.conv(x, widths[2], 1, 2))
    x = net.concat(net.conv(x, widths[1], 1), net.conv(x, widths[1], 3))
    x = net.conv(net.depthwise(net.conv(x, 2 * widths[0], 1)), widths[2], 1)
    return net.head(x)
