"""A network with all that ties channels together, its MACs, and a score that tells nothing apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgesearch.objectives.pruning._macs import layer_macs

SHAPE = (3, 32, 32)


class Residual(nn.Module):
    """Additions, a concat, a depthwise layer, and a flatten into a linear layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.back = nn.Conv2d(2 * width, width, 1)
        self.side = nn.Conv2d(width, 24, 3, padding=1)
        self.mix = nn.Conv2d(width + 24, 20, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(20 * 4, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.back(torch.relu(self.depthwise(self.inner(x))))
        x = torch.relu(self.mix(torch.cat([x, self.side(x)], 1)))
        return self.head(torch.relu(self.hidden(self.pool(x).flatten(1))))


def residual(seed: int = 0) -> Residual:
    torch.manual_seed(seed)
    return Residual().eval()


def total(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> int:
    return sum(layer_macs(model, shape).values())


def fixed(value: float) -> Callable[[nn.Module], float]:
    return lambda model: value
