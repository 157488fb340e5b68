"""Networks drawn at random over all operations of a Graph, with odd sizes, for comparing code with arithmetic."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from edgesearch.board_eval.graph import (
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
    average_factor,
    window_output,
)


class RandomNetwork:
    """One network; everything follows from `seed`. `leaky` allows leaky ReLU behind convolutions."""

    def __init__(self, seed: int, *, largest: int = 40, leaky: bool = True) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.open: list[str] = []
        self.leaky = leaky
        height, width = (self.pick(range(1, largest)), self.pick(range(1, largest)))
        channels = self.pick([1, 3, 3, 3, 4, 5, 16, 17, 24])
        self.put(Input(name="image", inputs=(), shape=(height, width, channels), fix=self.pick(range(3, 8))))
        for _ in range(self.pick(range(3, 14))):
            self.step()
        self.graph = self.finish(f"random{seed}")

    def pick(self, choices):  # type: ignore[no-untyped-def]
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def put(self, node: Node) -> str:
        self.nodes.append(node)
        self.open.append(node.name)
        return node.name

    def shape(self, name: str) -> tuple[int, ...]:
        return next(node.shape for node in self.nodes if node.name == name)

    def fix(self, name: str) -> int:
        return next(node.fix for node in self.nodes if node.name == name) or 0

    # -- steps

    def step(self) -> None:
        images = [node.name for node in self.nodes if len(node.shape) == 3]
        recent = images[-4:]
        x = self.pick(recent)
        kind = self.pick(["conv", "conv", "conv", "depthwise", "max", "avg", "add", "concat", "activation"])
        getattr(self, kind)(x)

    def name(self, what: str) -> str:
        return f"{what}{len(self.nodes)}"

    def activation_kind(self, fix: int) -> ActivationKind:
        kinds: list[ActivationKind] = ["none", "relu", "relu", "relu6"]
        if self.leaky:
            kinds.append("leaky_relu")
        return self.pick(kinds)

    def window(self, shape: tuple[int, ...], largest: int, strides: list[int]) -> tuple[tuple[int, int], ...] | None:
        kernel = (self.pick(range(1, largest + 1)), self.pick(range(1, largest + 1)))
        if self.chance(0.6):
            kernel = (kernel[0], kernel[0])
        stride = self.pick(strides)
        stride_pair = (stride, stride if self.chance(0.8) else self.pick(strides))
        top, bottom = (self.pick(range(0, (kernel[0] - 1) // 2 + 1)) for _ in range(2))
        left, right = (self.pick(range(0, (kernel[1] - 1) // 2 + 1)) for _ in range(2))
        if self.chance(0.5):
            top = bottom = kernel[0] // 2 if kernel[0] > 1 else 0
            left = right = kernel[1] // 2 if kernel[1] > 1 else 0
        height = window_output(shape[0], top + bottom, kernel[0], stride_pair[0])
        width = window_output(shape[1], left + right, kernel[1], stride_pair[1])
        if height < 1 or width < 1:
            return None
        return kernel, stride_pair, (left, right, top, bottom), (height, width)  # type: ignore[return-value]

    def weights(self, shape: tuple[int, ...], fan: int, fix_in: int) -> dict[str, object]:
        weight_fix = self.pick(range(4, 10))
        fix = fix_in + weight_fix - max(0, round(math.log2(math.sqrt(fan) * 40))) + self.pick([-1, 0, 0, 1])
        bias_fix = fix + self.pick([-1, 0, 1, 2, 5])
        weight = np.ldexp(self.random.integers(-128, 128, shape), -weight_fix).astype(np.float32)
        has_bias = self.chance(0.85)
        out = shape[-1] if len(shape) == 3 else shape[0]
        bias = np.ldexp(self.random.integers(-128, 128, out), -bias_fix).astype(np.float32) if has_bias else None
        return {
            "weight": weight,
            "bias": bias,
            "weight_fix": weight_fix,
            "bias_fix": bias_fix if has_bias else None,
            "has_bias": has_bias,
            "fix": fix,
            "activation": self.activation_kind(fix),
        }

    def conv(self, x: str) -> None:
        shape = self.shape(x)
        found = self.window(shape, self.pick([1, 3, 3, 3, 5, 7]), [1, 1, 1, 2, 2, 3, 4])
        if found is None:
            return
        kernel, stride, padding, size = found
        dilation = (1, 1)
        if self.chance(0.1) and kernel == (3, 3) and min(shape[:2]) > 8 and stride == (1, 1):
            dilation, size = (2, 2), (shape[0] + sum(padding[2:]) - 4, shape[1] + sum(padding[:2]) - 4)  # type: ignore[index]
        channels = self.pick([1, 3, 8, 15, 16, 17, 32, 40, 72, 136])
        fan = kernel[0] * kernel[1] * shape[2]
        settings = self.weights((channels, *kernel, shape[2]), fan, self.fix(x))
        self.put(
            Conv(name=self.name("conv"), inputs=(x,), shape=(*size, channels), kernel=kernel, stride=stride, padding=padding,  # type: ignore[arg-type]
                 dilation=dilation, **settings)
        )  # fmt: skip

    def depthwise(self, x: str) -> None:
        shape = self.shape(x)
        found = self.window(shape, self.pick([3, 3, 5, 7]), [1, 1, 2, 3])
        if found is None:
            return
        kernel, stride, padding, size = found
        settings = self.weights((*kernel, shape[2]), kernel[0] * kernel[1], self.fix(x))
        if settings["activation"] == "leaky_relu":
            settings["activation"] = "relu"
        self.put(
            Depthwise(name=self.name("dw"), inputs=(x,), shape=(*size, shape[2]), kernel=kernel, stride=stride, padding=padding,  # type: ignore[arg-type]
                      **settings)
        )  # fmt: skip

    def max(self, x: str) -> None:
        self.pool(x, "max")

    def avg(self, x: str) -> None:
        self.pool(x, "avg")

    def pool(self, x: str, kind: str) -> None:
        shape = self.shape(x)
        found = self.window(shape, self.pick([2, 3, 5, 8]), [1, 2, 2, 3])
        if found is None:
            return
        kernel, stride, padding, size = found
        factor = average_factor(kernel) if kind == "avg" else 1.0
        self.put(
            Pool(name=self.name(kind), inputs=(x,), shape=(*size, shape[2]), kernel=kernel, stride=stride, padding=padding,  # type: ignore[arg-type]
                 kind="max" if kind == "max" else "avg", factor=factor, fix=self.fix(x) + self.pick([0, 0, 0, -1, 1]))
        )  # fmt: skip

    def add(self, x: str) -> None:
        same = [node.name for node in self.nodes if node.shape == self.shape(x)]
        other = self.pick(same) if len(same) > 1 and self.chance(0.95) else x
        if other == x and self.chance(0.9):
            shape = self.shape(x)
            size = self.pick([1, 3])
            settings = self.weights((shape[2], size, size, shape[2]), size * size * shape[2], self.fix(x))
            settings["activation"] = self.pick(["none", "relu"])
            window = {"kernel": (size, size), "padding": (size // 2,) * 4}
            other = self.put(
                Conv(name=self.name("side"), inputs=(x,), shape=shape, **window, **settings)  # type: ignore[arg-type]
            )
        fix = self.pick([self.fix(x), self.fix(other), self.fix(x) - 1, self.fix(x) + 1])
        self.put(
            Add(name=self.name("add"), inputs=(x, other), shape=self.shape(x), fix=fix, activation=self.pick(["none", "relu"]))
        )

    def concat(self, x: str) -> None:
        same = [node.name for node in self.nodes if node.shape[:2] == self.shape(x)[:2] and len(node.shape) == 3]
        parts = [x, *(self.pick(same) for _ in range(self.pick([1, 1, 2])))]
        channels = sum(self.shape(part)[2] for part in parts)
        if channels > 300:
            return
        fix = min(self.fix(part) for part in parts) if self.chance(0.7) else self.fix(x)
        self.put(Concat(name=self.name("cat"), inputs=tuple(parts), shape=(*self.shape(x)[:2], channels), fix=fix))

    def activation(self, x: str) -> None:
        kinds: list[ActivationKind] = ["relu", "relu6", "leaky_relu"]
        self.put(
            Activation(
                name=self.name("act"),
                inputs=(x,),
                shape=self.shape(x),
                activation=self.pick(kinds),
                fix=self.fix(x) + self.pick([0, 0, -1, 1]),
            )
        )

    # -- the end

    def finish(self, name: str) -> Graph:
        """What nobody reads is left out; the last node is the output, with a linear layer behind it half of the time."""
        x = self.nodes[-1].name
        if self.chance(0.5):
            size = math.prod(self.shape(x))
            if size <= 4000:
                flat = self.put(Reshape(name="flat", inputs=(x,), shape=(size,), fix=None))
                settings = self.weights((self.pick([1, 5, 10, 33]), size), size, self.fix(x))
                weight = settings["weight"]
                assert isinstance(weight, np.ndarray)
                x = self.put(Linear(name="fc", inputs=(flat,), shape=(weight.shape[0],), **settings))  # type: ignore[arg-type]
        needed = {x}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.name in needed or isinstance(node, Input):
                kept.append(node)
                needed.update(node.inputs)
        return Graph(name, tuple(reversed(kept)))


def random_network(seed: int, *, largest: int = 40, leaky: bool = True) -> Graph:
    """The network of this seed, at least two nodes long."""
    while True:
        graph = RandomNetwork(seed, largest=largest, leaky=leaky).graph
        if len(graph.nodes) > 1:
            return dataclasses.replace(graph, name=f"random{seed}")
        seed += 1_000_003
