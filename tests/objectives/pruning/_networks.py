"""Small random networks of what real ones are made of: residual sums, concats, shared layers, gates, depthwise layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

SHAPE = (3, 8, 8)
OPERATIONS = ("conv", "twice", "depthwise", "residual", "concat", "double", "shared", "gate", "mix", "pool")


def masked(layer: nn.Module) -> nn.Module:
    """The layer, a third of whose weights torch sets to zero before each call."""
    done: nn.Module = prune.l1_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]
    return done


#: What makes a layer's weight follow from other tensors, by a parametrization or in a hook.
COMPUTED: tuple[Callable[[nn.Module], nn.Module], ...] = (
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    masked,
)


class RandomNetwork(nn.Module):
    """A stem, `operations` one after another on the same feature map, a linear layer behind a flatten or a mean."""

    def __init__(self, operations: tuple[str, ...], *, seed: int, flatten: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.draw = np.random.default_rng(seed)
        self.operations, self.flatten = operations, flatten
        self.layers = nn.ModuleDict()
        width, side = self._width(), SHAPE[1]
        self.stem = nn.Sequential(nn.Conv2d(SHAPE[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        for place, operation in enumerate(operations):
            side = -(-side // 2) if operation == "pool" else side
            width = self._add(f"{operation}{place}", operation, width)
        self.head = nn.Linear(width * side**2 if flatten else width, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)

    def _width(self) -> int:
        return int(self.draw.integers(4, 13))

    def _conv(self, name: str, into: int, out: int, kernel: int = 1, groups: int = 1) -> None:
        self.layers[name] = nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups)

    def _add(self, name: str, operation: str, width: int) -> int:
        """The layers of an operation, and the channels that it leaves."""
        inner = self._width()
        if operation in ("conv", "twice", "concat", "mix"):
            self._conv(f"{name}a", width, inner, 3)
        if operation == "twice":
            self._conv(f"{name}b", inner, width)
            self.layers[f"{name}n"] = nn.BatchNorm2d(width)
        elif operation == "depthwise":
            self._conv(f"{name}a", width, width, 3, groups=width)
        elif operation == "residual":
            self._conv(f"{name}a", width, inner)
            self._conv(f"{name}b", inner, width, 3)
        elif operation == "shared":
            self._conv(f"{name}a", width, width)
        elif operation == "gate":
            self._conv(f"{name}a", width, inner)
            self._conv(f"{name}b", inner, width)
        elif operation == "mix":  # a concat that is added to one layer's channels
            self._conv(f"{name}b", width + inner, width + inner)
        return {"conv": inner, "concat": width + inner, "mix": width + inner, "double": 2 * width}.get(operation, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for place, operation in enumerate(self.operations):
            x = self._operate(f"{operation}{place}", operation, x)
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))

    def _operate(self, name: str, operation: str, x: Tensor) -> Tensor:
        layers = self.layers
        if operation == "conv":
            return torch.relu(layers[f"{name}a"](x))
        if operation == "twice":
            return torch.relu(layers[f"{name}n"](layers[f"{name}b"](torch.relu(layers[f"{name}a"](x)))))
        if operation == "depthwise":
            return torch.relu(layers[f"{name}a"](x))
        if operation == "residual":
            return x + layers[f"{name}b"](torch.relu(layers[f"{name}a"](x)))
        if operation == "concat":
            return torch.cat([x, layers[f"{name}a"](x)], 1)
        if operation == "double":
            return torch.cat([x, x], 1)
        if operation == "shared":
            layer = layers[f"{name}a"]
            return torch.relu(layer(torch.relu(layer(x))))
        if operation == "gate":
            squeezed = torch.nn.functional.adaptive_avg_pool2d(x, 1)
            return x * torch.sigmoid(layers[f"{name}b"](torch.relu(layers[f"{name}a"](squeezed))))
        if operation == "mix":
            both = torch.cat([x, layers[f"{name}a"](x)], 1)
            return torch.relu(both + layers[f"{name}b"](both))
        return torch.nn.functional.max_pool2d(x, 3, stride=2, padding=1)
