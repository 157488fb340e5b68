"""Layers one behind the other, in the order that trains fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Chain", "PooledNorm", "make_positive"]

_Step: TypeAlias = Callable[[Tensor], Tensor]


class PooledNorm(nn.BatchNorm2d):
    """Batch-norm of a `Chain` in front of a max pool of 2 x 2, perhaps with a ReLU between them, by the mean and variance of
    what that pool passes on; in evaluation it is a batch-norm like any other.

    The largest of four normalised numbers is hardly ever negative, so that a ReLU in front of a pool does little. Here it cuts
    off about half of what goes on (as where K. Jordan 2024 has the pool in front of batch-norm). Both orders compute the same
    where factors are positive: negative ones, which a step may leave by a hair, are zero in the next.
    """

    #: Sides of the pool's windows, and their distances.
    window: ClassVar[int] = 2

    def behind(self, x: Tensor) -> Tensor:
        """In training, of what the pool passes on."""
        self._stay_positive()
        normalised: Tensor = self(x)
        return normalised

    def in_front(self, x: Tensor) -> Tensor:
        """In training, where it is not behind the pool: `x` (N, C, H, W) normalised by what the pool passes on of it."""
        assert self.num_batches_tracked is not None
        self._stay_positive()
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        pooled = F.max_pool2d(x.float(), self.window)
        with torch.no_grad():
            F.batch_norm(pooled, self.running_mean, self.running_var, training=True, momentum=share)
        variance, mean = torch.var_mean(pooled, (0, 2, 3), correction=0)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]

    @torch.no_grad()
    def _stay_positive(self) -> None:
        self.weight.clamp_(min=0)


class Chain(nn.Sequential):
    """An `nn.Sequential` that in training computes a ReLU behind the max pool that follows it.

    Since a ReLU never turns the order of two numbers round, the largest of a window stays the same one: answers and gradients
    are equal to the last bit, and a pool of 2 x 2 leaves the ReLU a quarter of the numbers. The DPU has a ReLU for nothing in
    front of the pool, which is why it is written there. A `PooledNorm` whose statistics change goes behind the pool, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's answer."""
        for step in _pools_first(list(self), training=self.training):
            x = step(x)
        return x


@torch.no_grad()
def make_positive(model: nn.Module) -> None:
    """Turn the kernels of channels round that the `PooledNorm` behind them would multiply by a negative factor: in evaluation
    the network computes what it did.
    """
    for chain in model.modules():
        for layer, norm in pairwise(chain) if isinstance(chain, Chain) else ():
            if isinstance(layer, nn.Conv2d) and isinstance(norm, PooledNorm) and norm.running_mean is not None:
                signs = torch.where(norm.weight < 0, -1.0, 1.0)
                for tensor in (layer.weight, layer.bias, norm.running_mean, norm.weight):
                    if tensor is not None:
                        tensor.mul_(signs.reshape(-1, *[1] * (tensor.ndim - 1)))


def _pools_first(layers: list[nn.Module], *, training: bool) -> Iterator[_Step]:
    """The layers, with those behind the max pool that follows them that may stand there.

    A ReLU or a pool that somebody looks at stays where it is, and what is in front of it.
    """
    waiting: list[nn.Module] = []
    for layer in layers:
        may_move = (training or bool(waiting)) and not layer._forward_hooks
        if isinstance(layer, nn.MaxPool2d) and may_move:
            yield layer
            yield from _steps(waiting, behind=True)
            waiting.clear()
        elif (isinstance(layer, PooledNorm) and layer.training) or (isinstance(layer, nn.ReLU) and may_move):
            waiting.append(layer)
        else:
            yield from _steps(waiting, behind=False)
            yield layer
            waiting.clear()
    yield from _steps(waiting, behind=False)


def _steps(layers: list[nn.Module], *, behind: bool) -> list[_Step]:
    """What the layers do, batch-norms by what a pool passes on, `behind` that pool or not."""
    return [(each.behind if behind else each.in_front) if isinstance(each, PooledNorm) else each for each in layers]
