"""Layers one behind the other, in the order that trains fastest."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["Chain"]


class Chain(nn.Sequential):
    """An `nn.Sequential` that in training computes a ReLU behind the max pool that follows it.

    Since a ReLU never turns the order of two numbers round, the largest of a window stays the same one: answers and gradients
    are equal to the last bit, and a pool of 2 x 2 leaves the ReLU a quarter of the numbers. The DPU has a ReLU for nothing in
    front of the pool, which is why it is written there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's answer."""
        for layer in _pools_first(list(self)) if self.training else self:
            x = layer(x)
        return x


def _pools_first(layers: list[nn.Module]) -> Iterator[nn.Module]:
    """The layers with each ReLU behind the max pool that follows it, unless somebody looks at what passes it."""
    waiting: nn.Module | None = None
    for layer in layers:
        if waiting is not None and not (isinstance(layer, nn.MaxPool2d) and not layer._forward_hooks):
            yield waiting
            waiting = None
        if isinstance(layer, nn.ReLU) and not layer._forward_hooks:
            waiting = layer
        else:
            yield layer
    if waiting is not None:
        yield waiting
