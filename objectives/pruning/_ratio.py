"""How many channels each group keeps so that a network loses a given share of its MACs.

Channels go in steps: a group of n may keep n, or a multiple of the granularity below n, never less than one granule. A policy
gives every step a key, the point at which it is due; steps are taken in the order of their keys until the MACs are met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgesearch.objectives.pruning._channels import Integers
from edgesearch.objectives.pruning._layers import Layers

__all__ = ["approach", "even_keys", "levels", "prefixes", "round_to_levels", "step_ratios"]

#: Steps beyond the first that overshoots are tried until the MACs are this close, as a share of the unpruned ones.
_CLOSE = 0.002


def levels(channels: int, granularity: int) -> Integers:
    """What a group of `channels` may keep, from all of them down."""
    return np.array([channels, *range((channels - 1) // granularity * granularity, 0, -granularity)], np.int64)


def step_ratios(channels: int, granularity: int) -> NDArray[np.float64]:
    """For each step down: the share of channels to remove at which the lower level is the nearer one."""
    allowed = levels(channels, granularity)
    ratios: NDArray[np.float64] = 1 - (allowed[:-1] + allowed[1:]) / 2 / channels
    return ratios


def even_keys(
    channels: Sequence[int], granularity: int, weights: NDArray[np.float64] | None = None
) -> list[NDArray[np.float64]]:
    """Keys of a policy that takes the same share of every group, or shares in proportion to `weights` (G,)."""
    shares = np.ones(len(channels)) if weights is None else weights
    return [step_ratios(count, granularity) / share for count, share in zip(channels, shares, strict=True)]


def round_to_levels(ratios: NDArray[np.float64], channels: Sequence[int], granularity: int) -> Integers:
    """Channels kept (..., G) where `ratios` (..., G) are to be removed, each at the nearest level."""
    kept = np.empty(ratios.shape, np.int64)
    for group, count in enumerate(channels):
        steps = np.searchsorted(step_ratios(count, granularity), ratios[..., group], side="right")
        kept[..., group] = levels(count, granularity)[steps]
    return kept


def prefixes(
    channels: Integers, keys: Sequence[NDArray[np.float64]], granularity: int
) -> tuple[Integers, list[tuple[int, int]]]:
    """Channels kept (P + 1, G) after 0, 1, ... P steps in the order of the keys, and the steps: (group, step of the group)."""
    groups = len(keys)
    due = sorted((key, group, step) for group in range(groups) for step, key in enumerate(np.maximum.accumulate(keys[group])))
    taken = np.zeros((len(due) + 1, groups), np.int64)  # steps taken of each group, after each of the steps
    for row, (_, group, _) in enumerate(due):
        taken[row + 1, group] = 1
    taken = np.cumsum(taken, axis=0)
    ladder = [levels(int(count), granularity) for count in channels]
    kept = np.stack([ladder[group][taken[:, group]] for group in range(groups)], axis=1) if groups else taken
    return kept, [(group, step) for _, group, step in due]


def approach(layers: Layers, keys: Sequence[NDArray[np.float64]], granularity: int, target: float) -> Integers:
    """Channels kept (G,) with MACs as near to `target` as the keys' order and the granularity allow."""
    groups = len(keys)
    ladder = [levels(int(count), granularity) for count in layers.channels]
    kept, due = prefixes(layers.channels, keys, granularity)
    macs = layers.macs(kept)
    enough = int(np.searchsorted(-macs, -target, side="right"))  # prefixes that still have the target's MACs or more
    last = max(enough - 1, 0)
    best: Integers = kept[last]
    distance = abs(macs[last] - target)
    if enough < len(macs) and abs(macs[enough] - target) < distance:
        best, distance = kept[enough], abs(macs[enough] - target)
    # A large step may overshoot while smaller ones, due a little later, still fit.
    state = np.array([int(np.flatnonzero(ladder[g] == kept[last, g])[0]) for g in range(groups)], np.int64)
    whole = float(macs[0])
    for group, step in due[last:]:
        if distance <= _CLOSE * whole:
            break
        if state[group] != step:
            continue
        state[group] += 1
        tried = np.array([ladder[g][state[g]] for g in range(groups)])
        cost = float(layers.macs(tried))
        if abs(cost - target) < distance:
            best, distance = tried, abs(cost - target)
        if cost < target:
            state[group] -= 1
    return best
