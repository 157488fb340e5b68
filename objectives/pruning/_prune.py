"""Structured pruning to a share of the multiply-accumulates (MACs), the way Vitis AI's optimizer speaks of it.

One step, after EagleEye (B. Li et al. 2020): draw how much each group of channels loses, at random around the target; slim the
network, estimate its batch-norm statistics anew, score it, keep the best. Iterative: measure how much each group can lose,
prune the least sensitive to a part of the target, fine-tune, repeat. In both, channels go by their L1 norm. No layer keeps
fewer channels than the granularity, or than it has; the network's outputs stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._groups import Group, Layers, find_groups, layers_of, remove_channels
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.objectives.pruning._ratio import approach, even_keys, levels, round_to_levels, step_ratios

__all__ = [
    "HIGHEST_RATIO",
    "PrunableShape",
    "Pruned",
    "Sensitivity",
    "check_pruning",
    "measure_sensitivity",
    "prune_iterative",
    "prune_one_step",
    "pruned_network",
    "pruned_shape",
    "re_estimate_batch_norm",
]

HIGHEST_RATIO = 0.95

#: A drawn vector is taken as it is if it meets the target within this share of it (1 % in EagleEye); else it is scaled.
_TOLERANCE = 0.01
#: Vectors drawn for each one that is wanted, before the nearest are scaled.
_TRIES = 256
#: The least and the most that a draw takes of a group, and the widest spread between groups (Vitis AI optimizer).
_LEAST, _MOST, _SPREAD = 0.05, 0.9, 0.3
#: Shares of a group's channels at which its sensitivity is measured.
_SENSITIVITY_RATIOS = np.arange(1, 10) / 10
#: Accuracy that a group's whole width is deemed to cost beyond what was measured. A few hundred images do not tell groups
#: apart that lose nothing; this spreads the removal over them.
_PRIOR = 0.01


#: (channels kept, score) of a group, fewer and fewer channels.
Curve: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Sensitivity:
    """A network's score, and by group of channels what it becomes when only that group is pruned."""

    base: float
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class Pruned:
    """A pruned network. `channels`: outputs kept by every convolution and linear layer, in order of execution."""

    model: nn.Module
    channels: dict[str, int]
    macs_before: int
    macs_after: int
    asked_ratio: float
    scores: tuple[float, ...] = ()  # of the draws, in one_step
    sensitivity: Mapping[str, Curve] = field(default_factory=dict)  # iterative: by group, of the first round

    @property
    def reached_ratio(self) -> float:
        """The share of MACs that is gone. The granularity may not allow the ratio that was asked for."""
        return 1 - self.macs_after / self.macs_before


def check_pruning(ratio: float, granularity: int) -> None:
    """Raise SpaceError for what cannot be asked for."""
    if not 0 <= ratio <= HIGHEST_RATIO:
        raise SpaceError(f"the pruning ratio is {ratio}; expected the share of MACs to remove, from 0 to {HIGHEST_RATIO}")
    if granularity < 1:
        raise SpaceError(f"the pruning granularity is {granularity}; expected a number of channels, at least 1")


def pruned_network(model: nn.Module, pruned: nn.Module, input_shape: tuple[int, int, int], ratio: float) -> Pruned:
    """`pruned` with what is to be known of it: it was made from `model`, and asked to lose `ratio` of its MACs."""
    before, after = layer_macs(model, input_shape), layer_macs(pruned, input_shape)
    modules = dict(pruned.named_modules())
    channels = {name: int(_outputs(modules[name])) for name in after}
    return Pruned(pruned, channels, sum(before.values()), sum(after.values()), ratio)


def _outputs(module: nn.Module) -> int:
    return module.out_channels if isinstance(module, nn.Conv2d) else int(module.out_features)  # type: ignore[arg-type]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What the caller's functions draw from torch within it follows the seed; the process's own state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _even(layers: Layers, ratio: float, granularity: int) -> Integers:
    target = (1 - ratio) * float(layers.macs(layers.channels))
    return approach(layers, even_keys(layers.channels.tolist(), granularity), granularity, target)


class PrunableShape:
    """An untrained network, ready to be asked what it looks like at any ratio. Nothing is measured or trained.

    Finding the groups takes most of the time (about a second for ResNet-50 at 224 px) and is done once, here.
    `input_shape` is (channels, height, width).
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self._model = model
        self._groups = find_groups(model, input_shape)
        self._layers = layers_of(model, input_shape, self._groups)

    def at(self, *, ratio: float, granularity: int) -> nn.Module:
        """A copy that lost `ratio` of its MACs, evenly from all groups. Raises SpaceError for a ratio outside 0..0.95."""
        check_pruning(ratio, granularity)
        return remove_channels(self._model, self._groups, _even(self._layers, ratio, granularity).tolist())


def pruned_shape(model: nn.Module, input_shape: tuple[int, int, int], *, ratio: float, granularity: int) -> nn.Module:
    """`PrunableShape(model, input_shape).at(...)`, for a network that is asked about once."""
    check_pruning(ratio, granularity)
    return PrunableShape(model, input_shape).at(ratio=ratio, granularity=granularity)


def prune_one_step(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    ratio: float,
    granularity: int,
    draws: int,
    score: Callable[[nn.Module], float],
    recalibrate: Callable[[nn.Module], None],
    seed: int,
) -> Pruned:
    """The best of `draws` ways to remove `ratio` of the MACs of `model`, which is not changed. It is not fine-tuned yet.

    The first way takes the same share of every group; the others are drawn. Each is given to `recalibrate`, which brings its
    batch-norm statistics up to date, and to `score`, where more is better. Of equal scores the one that keeps most of the
    weights' magnitude wins: at high ratios all may score like chance. Raises SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    groups = find_groups(model, input_shape)
    layers = layers_of(model, input_shape, groups)
    variants = _draw(layers, ratio, granularity, draws, np.random.default_rng(seed))
    best: tuple[tuple[float, float], nn.Module] | None = None
    scores = []
    for kept in variants:
        variant = remove_channels(model, groups, kept.tolist())
        with _seeded(seed):
            recalibrate(variant)
            scores.append(float(score(variant)))
        rank = (scores[-1], _magnitude(groups, kept))
        if best is None or rank > best[0]:
            best = (rank, variant)
    assert best is not None
    done = pruned_network(model, best[1], input_shape, ratio)
    return Pruned(done.model, done.channels, done.macs_before, done.macs_after, ratio, scores=tuple(scores))


def _magnitude(groups: list[Group], kept: Integers) -> float:
    """The share of each group's magnitude that its most important `kept` channels hold, summed over the groups."""
    return sum(
        float(np.sort(group.importance)[group.channels - count :].sum() / max(group.importance.sum(), 1e-30))
        for group, count in zip(groups, kept.tolist(), strict=True)
    )


def _draw(layers: Layers, ratio: float, granularity: int, draws: int, rng: np.random.Generator) -> list[Integers]:
    """Up to `draws` different ways to meet the target. On a small network there may be fewer."""
    channels = layers.channels.tolist()
    even = _even(layers, ratio, granularity)
    whole = float(layers.macs(layers.channels))
    target = (1 - ratio) * whole
    count = max(draws - 1, 0) * _TRIES if channels else 0
    lowest, highest = (0.0, ratio / 2) if ratio < 0.5 else (ratio / 2, ratio)
    mean = rng.uniform(lowest, highest, (count, 1))
    drawn = np.clip(rng.normal(mean, rng.uniform(0, _SPREAD, (count, 1)), (count, len(channels))), _LEAST, _MOST)
    kept = round_to_levels(drawn, channels, granularity)
    misses = np.abs(layers.macs(kept) - target) / whole
    found = {tuple(even.tolist()): even}
    for row in np.flatnonzero(misses <= _TOLERANCE):
        if len(found) < draws:
            found.setdefault(tuple(kept[row].tolist()), kept[row])
    for row in np.argsort(misses, kind="stable")[: 4 * draws]:
        if len(found) >= draws:
            break
        scaled = approach(layers, even_keys(channels, granularity, drawn[row]), granularity, target)
        if abs(float(layers.macs(scaled)) - target) <= max(_TOLERANCE * whole, abs(float(layers.macs(even)) - target)):
            found.setdefault(tuple(scaled.tolist()), scaled)
    return list(found.values())


def prune_iterative(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    ratio: float,
    granularity: int,
    steps: int,
    score: Callable[[nn.Module], float],
    finetune: Callable[[nn.Module, int], None],
    seed: int,
    sensitivity: Sensitivity | None = None,
) -> Pruned:
    """`model`, which is not changed, less `ratio` of its MACs in `steps` rounds of the same proportion.

    Each round measures how `score` falls as every group alone loses 10 to 90 % of its channels, finds the fall to allow so that
    the round's MACs are met, prunes every group to it, and, but for the last round, calls `finetune(network, round)`, rounds
    counted from 0. The last network is returned for its final training. `sensitivity` is that of `model` where it was measured
    before; with it, the first round measures nothing. Raises SpaceError for a ratio outside 0..0.95.
    """
    check_pruning(ratio, granularity)
    current = copy.deepcopy(model)
    whole = sum(layer_macs(model, input_shape).values())
    first: Mapping[str, Curve] = {}
    for step in range(max(1, steps)):
        groups = find_groups(current, input_shape)
        layers = layers_of(current, input_shape, groups)
        with _seeded(seed + step):
            known = sensitivity if step == 0 else None
            measured = known or _measure(current, groups, granularity, score)
            keys = [_fall_keys(group, measured.curves[group.name], measured.base, granularity) for group in groups]
            kept = approach(layers, keys, granularity, whole * (1 - ratio) ** ((step + 1) / max(1, steps)))
            current = remove_channels(current, groups, kept.tolist())
            if step < steps - 1:
                finetune(current, step)
        if step == 0:
            first = measured.curves
    done = pruned_network(model, current, input_shape, ratio)
    return Pruned(done.model, done.channels, done.macs_before, done.macs_after, ratio, sensitivity=first)


def measure_sensitivity(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    granularity: int,
    score: Callable[[nn.Module], float],
    seed: int,
) -> Sensitivity:
    """How `score` falls as every group of `model` alone loses 10 to 90 % of its channels; the network is not changed."""
    check_pruning(0.0, granularity)
    with _seeded(seed):
        return _measure(model, find_groups(model, input_shape), granularity, score)


def _measure(model: nn.Module, groups: list[Group], granularity: int, score: Callable[[nn.Module], float]) -> Sensitivity:
    curves = {group.name: _curve(model, group, granularity, score) for group in groups}
    return Sensitivity(float(score(model)), curves)


def _curve(model: nn.Module, group: Group, granularity: int, score: Callable[[nn.Module], float]) -> Curve:
    """(channels kept, score) with only `group` pruned, at the levels nearest to 10..90 %."""
    kept = round_to_levels(_SENSITIVITY_RATIOS[:, None], [group.channels], granularity)[:, 0]
    wanted = sorted(set(kept.tolist()) - {group.channels}, reverse=True)
    return tuple((count, float(score(remove_channels(model, [group], [count])))) for count in wanted)


def _fall_keys(group: Group, curve: Curve, base: float, granularity: int) -> NDArray[np.float64]:
    """For each step down of a group: the fall in score at which it is due, between the measured points on straight lines."""
    shares = np.array([0.0, *(1 - count / group.channels for count, _ in curve)])
    falls = np.maximum.accumulate([0.0, *(base - value for _, value in curve)])
    after = 1 - levels(group.channels, granularity)[1:] / group.channels
    beyond = np.maximum(after - shares[-1], 0.0)  # below the last measured point: as if the rest cost all that is left
    keys: NDArray[np.float64] = np.interp(after, shares, falls) + _PRIOR * after + beyond * max(base, 0.0)
    assert len(keys) == len(step_ratios(group.channels, granularity))
    return keys


def re_estimate_batch_norm(model: nn.Module, images: Tensor, *, batch_size: int = 128) -> None:
    """Sets the running statistics of every batch-norm in `model` to their mean over batches of `images`, in place.

    `images` are prepared: float32 (N, C, H, W). Only batch-norms run in training mode: dropout stays off. Weights stay.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms or not len(images):
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the plain mean of all batches
        norm.train()
    device = next(model.parameters()).device
    with torch.no_grad():
        for batch in images.tensor_split(max(1, -(-len(images) // batch_size))):
            model(batch.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training
