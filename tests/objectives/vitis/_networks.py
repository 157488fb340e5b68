"""Small networks with every operation that is written as code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Functions(nn.Module):
    """Functions and methods in the place of modules, in the ways that people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-3, momentum=None)
        self.b = nn.Conv2d(8, 8, 3, 1, (1, 1), groups=8)
        self.c = nn.Conv2d(16, 12, (1, 3), padding=(0, 1))
        self.head = nn.Linear(12, 5)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, unused: int = 3) -> Tensor:
        x = self.relu(self.norm(self.a(x)))
        y = F.relu6(self.b(x))
        x = torch.add(x, y).contiguous()
        x += y
        x = torch.cat([self.relu(x), torch.relu(y)], dim=-3)
        x = F.max_pool2d(x, 2, stride=2)
        x = F.leaky_relu(self.c(x), 0.1, inplace=True)
        x = F.avg_pool2d(x, 2)
        x = F.dropout(x, 0.3, self.training)
        x = x.mean([2, 3])
        return self.head(x.view(x.size(0), -1))


class Others(nn.Module):
    """Calls that change nothing, and other ways to write what `Functions` writes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(planes, 4, 3, padding=1) for planes in (3, 4, 4))
        self.head, self.second = nn.Linear(8, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.float().to(torch.float32)).clamp_min(0)
        y = F.threshold(self.b(x.clone()).detach(), 0, 0)
        z = F.dropout2d(torch.clamp_min(self.c(torch.clone(y)), 0), 0.3, self.training)
        x = torch.concatenate((torch.dropout(y, 0.2, self.training), F.alpha_dropout(z, 0.2)), 1)
        x = self.head(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]).clamp_min_(0)
        return self.second(x)


class Clips(nn.Module):
    """ReLU6 and ReLU as the clips that they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x).clamp(0, 6)
        x = torch.clip(self.layers[1](x), min=0, max=6.0)
        x = F.hardtanh(self.layers[2](x), 0, 6, inplace=True)
        x = self.layers[3](x).clamp_(0, 6)
        x = self.layers[4](x).clamp(min=0)
        x = x.mean([2, 3])
        return self.head(x.view(x.size(0), x.size(1) * 1))


class Modules(nn.Module):
    """Kinds of layers and arguments that the students of this project do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 6, 4, padding="same"), nn.BatchNorm2d(6, affine=False), nn.Hardtanh(0.0, 6.0)),
                nn.Sequential(nn.Conv2d(6, 6, 3, dilation=2, padding="valid"), nn.ReLU6(), nn.Identity()),
            ]
        )
        self.pools = nn.ModuleDict({"most": nn.MaxPool2d(3, 2, 1, ceil_mode=True), "mean": nn.AdaptiveAvgPool2d((1, None))})
        self.even = nn.AvgPool2d(2, count_include_pad=True)
        self.leaky = nn.LeakyReLU(0.1)
        self.flat = nn.Flatten()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(6 * 3, 7), nn.BatchNorm1d(7), nn.Flatten())
        self.never_called = nn.Linear(2, 2)
        self.same = self.leaky

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        x = self.leaky(self.pools["most"](x))
        x = self.same(self.even(x))
        return self.head(self.flat(self.pools["mean"](x)))


class Shared(nn.Module):
    """One convolution called twice, an addition in place whose operand is read again, and names that the code uses itself."""

    def __init__(self) -> None:
        super().__init__()
        self.torch = nn.Conv2d(3, 3, 3, padding=1)
        self.nn = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.nn(self.torch(x))
        z = self.nn(self.torch(y))
        y += z
        return torch.flatten(F.adaptive_avg_pool2d(y + z, 1), 1)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random weights and batch-norm statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.25 if value.ndim == 1 else value)
    return model.eval()
