"""Networks with single weights at zero, for analysis: what a device that skips zeros would lose. The DPU skips none.

Every layer keeps its shape. Zeros stay zeros while the network is trained, since its weights are computed from those that are
trained and a mask, until `settle` puts plain weights in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._hollow import copied
from edgesearch.objectives.pruning._importance import watch_inputs
from edgesearch.objectives.pruning._pruned import Pruned, check_pruning, pruned_network, seeded
from edgesearch.objectives.pruning._resize import is_computed, shared_parameters

__all__ = ["prune_n_m", "prune_unstructured", "settle", "zero_share"]


class Masked(nn.Module):
    """A weight that is zero where its mask is."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        mask = self.mask
        assert isinstance(mask, Tensor)
        return weight * mask


def prune_unstructured(
    model: nn.Module, input_shape: tuple[int, int, int], *, ratio: float, score: Callable[[nn.Module], float], seed: int
) -> Pruned:
    """A copy of `model` with the share `ratio` of its weights at zero, those that tell their outputs least, wherever they are.

    The worth of a weight is its part of the variance of its output, W^2 * Var(x), over the mean of all that the output reads,
    on the images that `score` shows to the network; where it shows none, W^2 alone counts. Only layers whose outputs read all
    their inputs lose weights: depthwise and grouped ones stay whole, and so do those whose weight is computed (`weight_norm`).
    A weight that several layers have in common counts once, with what it is worth to all of them; it stays whole where another
    layer has it, too.

    Raises SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, 1)
    worths = _worths(model, score, seed)
    everything = torch.cat([worth.flatten() for worth in worths.values()]) if worths else torch.zeros(0)
    mask = torch.ones(len(everything))
    mask[torch.argsort(everything, stable=True)[: round(ratio * len(everything))]] = 0
    parts = torch.split(mask, [worth.numel() for worth in worths.values()])
    masks = {name: part.view_as(worth) for (name, worth), part in zip(worths.items(), parts, strict=True)}
    return _masked(model, input_shape, masks, ratio)


def prune_n_m(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    pattern: tuple[int, int],
    score: Callable[[nn.Module], float],
    seed: int,
) -> Pruned:
    """A copy of `model` in which of every M weights side by side along the input channels only the N of most worth are left.

    `pattern` is (N, M); the worth of a weight is that of `prune_unstructured`. Channels beyond a multiple of M keep all of
    theirs, and so do layers that `prune_unstructured` leaves whole. Raises SpaceError for a pattern that leaves nothing out.
    """
    kept, of = pattern
    if not 0 < kept < of:
        raise SpaceError(f"the pattern is {kept}:{of}; expected N:M with N below M, such as 2:4")
    masks = {name: _n_m_mask(worth, kept, of) for name, worth in _worths(model, score, seed).items()}
    return _masked(model, input_shape, masks, 1 - kept / of)


def settle(model: nn.Module) -> nn.Module:
    """`model`, changed in place, with plain weights where they were masked."""
    for module in list(model.modules()):
        steps: Any = getattr(module, "parametrizations", {})
        if "weight" in steps and isinstance(steps["weight"][0], Masked):
            parametrize.remove_parametrizations(module, "weight")
    return model


def zero_share(model: nn.Module) -> float:
    """The share of the weights of all convolutions and linear layers that are zero; those that layers share count once."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = {_stored(module): _weight(module) for module in layers}.values()
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))


def _worths(model: nn.Module, score: Callable[[nn.Module], float], seed: int) -> dict[str, Tensor]:
    """By layer, what each of its weights is worth, of the weight's shape; of layers with one weight by the first."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)) and not is_computed(module)
    }
    with seeded(seed):
        spreads, _ = watch_inputs(model, layers, score)
    worths = {}
    for name, module in layers.items():
        worth = _weight(module).detach().double().cpu().square()
        if name in spreads:
            if bool(spreads[name].sum() > 0):  # else every image says the same there
                worth = worth * spreads[name].view(1, -1, *[1] * (worth.ndim - 2))
            worth = worth / worth.mean(tuple(range(1, worth.ndim)), keepdim=True).clamp_min(torch.finfo(worth.dtype).tiny)
        worths[name] = worth
    for places in shared_parameters(model):
        names = [name for name, module in layers.items() if any(module is each and key == "weight" for each, key in places)]
        together = [worths.pop(name) for name in names]
        if together and len(together) == len(places):
            worths[names[0]] = torch.stack(together).sum(0)
    return worths


def _n_m_mask(worth: Tensor, kept: int, of: int) -> Tensor:
    mask = torch.ones_like(worth)
    whole = worth.shape[1] // of * of
    if whole:
        sets = worth[:, :whole].reshape(len(worth), whole // of, of, *worth.shape[2:])
        least = torch.argsort(sets, dim=2, stable=True)[:, :, : of - kept]
        mask[:, :whole] = torch.ones_like(sets).scatter_(2, least, 0.0).flatten(1, 2)
    return mask


def _masked(model: nn.Module, input_shape: tuple[int, int, int], masks: dict[str, Tensor], ratio: float) -> Pruned:
    sparse = copied(model)
    modules = dict(sparse.named_modules())
    stored = {_stored(modules[name]): mask for name, mask in masks.items()}
    for module in modules.values():
        if isinstance(module, nn.Conv2d | nn.Linear) and (mask := stored.get(_stored(module))) is not None:
            parametrize.register_parametrization(module, "weight", Masked(mask.to(_weight(module))))
    return replace(pruned_network(model, sparse, input_shape, ratio), zero_share=zero_share(sparse))


def _stored(module: nn.Module) -> int:
    """The same for layers that have one weight in common, masked or not."""
    steps: Any = getattr(module, "parametrizations", {})
    if "weight" in steps and isinstance(steps["weight"][0], Masked):
        return id(steps["weight"].original)
    return id(module if is_computed(module) else module.weight)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
