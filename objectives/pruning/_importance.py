"""How much each channel tells the layers that read it, from what a network computes on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.objectives.pruning._groups import Group
from edgesearch.objectives.pruning._pruned import scored

__all__ = ["watch_inputs", "weigh"]


def weigh(model: nn.Module, groups: Sequence[Group], score: Callable[[nn.Module], float]) -> tuple[list[Group], float]:
    """The `groups` with the importance of what their channels say, and the score of `model`, which is not changed.

    A layer that reads channel c with the weights W[:, c] puts out a share of it, Var(x_c) * |W[:, c]|^2, with x_c over the
    images that `score` shows to the network, and over their pixels. The importance (channels,) is this share of
    all that the layer reads, summed over the layers that read the channel. Unlike the norms of weights it does not change when
    one layer scales a channel and the next scales it back. What a channel says in the same way of every image is no part of
    it, since a batch-norm or a bias makes up for that.

    Groups keep the importance that they have where `score` does not run the network.
    """
    modules = dict(model.named_modules())
    readers = dict.fromkeys(member.layer for group in groups for member in group.members if member.side == "in")
    spreads, base = watch_inputs(model, readers, score)
    told = {name: _told(modules[name], spread) for name, spread in spreads.items()}
    return [_weighed(group, told) for group in groups], base


class _Spread:
    """Variance of each channel over all batches, as if they were one: counts, means and squared distances are merged.

    T. Chan, G. Golub and R. LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """A batch of `count` values of each channel."""
        whole, apart = self._count + count, mean - self._mean
        self._squares = self._squares + count * variance + apart.square() * (self._count * count / whole)
        self._mean = self._mean + apart * (count / whole)
        self._count = whole

    @property
    def variance(self) -> Tensor:
        """(channels,)"""
        return self._squares / max(1, self._count)


def watch_inputs(
    model: nn.Module, layers: Iterable[str], score: Callable[[nn.Module], float]
) -> tuple[dict[str, Tensor], float]:
    """By layer the variance (inputs,) of each channel that it reads while `score` runs the network; and the score.

    It is over all images, in however many batches they are shown; a batch that failed, for want of memory say, does not count.
    Layers that `score` does not run are left out.
    """
    modules = dict(model.named_modules())
    seen: dict[str, _Spread] = {}
    pending: list[tuple[str, int, Tensor, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            values: Tensor = (inputs[0] if inputs else named["input"]).detach().transpose(0, 1).flatten(1).float()
            variance, mean = torch.var_mean(values, 1, correction=0)
            pending.append((name, values.shape[1], mean.double().cpu(), variance.double().cpu()))

        return hook

    def take(*_: Any) -> None:
        for name, count, mean, variance in pending:
            seen.setdefault(name, _Spread()).add(count, mean, variance)
        pending.clear()

    handles = [modules[name].register_forward_hook(watch(name), with_kwargs=True) for name in layers]
    handles += [model.register_forward_pre_hook(lambda *_: pending.clear()), model.register_forward_hook(take)]
    try:
        base = scored(score, model)
        take()  # of a score that runs parts of the network alone
        return {name: spread.variance for name, spread in seen.items()}, base
    finally:
        for handle in handles:
            handle.remove()


def _told(reader: nn.Module, spread: Tensor) -> NDArray[np.float64]:
    """(inputs,) each one's share of the variance that all together bring into the layer's output."""
    weight = reader.weight
    assert isinstance(weight, Tensor)
    sizes = weight.detach().double().cpu().transpose(0, 1).flatten(1).square().sum(1)
    energy: NDArray[np.float64] = (sizes * spread).numpy()
    total = float(energy.sum())
    return energy / total if 0 < total < np.inf else np.full(len(energy), np.nan)


def _weighed(group: Group, told: dict[str, NDArray[np.float64]]) -> Group:
    importance = np.zeros(group.channels)
    for member in group.members:
        if member.side == "in":
            if member.layer not in told:
                return group
            np.add.at(importance, member.root, told[member.layer][member.index])
    return replace(group, importance=importance) if np.isfinite(importance).all() else group
