"""Convolutions whose outputs are made of a part of the inputs each: in groups, or of one input; other weights are zero.

A Graph keeps such weights whole, as the DPU has them, which knows full and depthwise convolutions: a block for each group, and
zeros around them. (torch keeps the blocks alone.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["group_mask", "groups_of", "part_mask", "parts_of", "picks_of", "wrong_parts"]


def group_mask(outputs: int, inputs: int, groups: int) -> npt.NDArray[np.bool_]:
    """(outputs, inputs): whether an output is made of an input, both in `groups` equal parts."""
    made: npt.NDArray[np.int64] = np.arange(outputs) // (outputs // groups)
    read: npt.NDArray[np.int64] = np.arange(inputs) // (inputs // groups)
    return np.equal(made[:, None], read[None, :])


def pick_mask(inputs: int, picks: Sequence[int]) -> npt.NDArray[np.bool_]:
    """(outputs, inputs): whether an output is that input."""
    taken: npt.NDArray[np.int64] = np.array(picks)
    return np.equal(taken[:, None], np.arange(inputs)[None, :])


def part_mask(outputs: int, inputs: int, groups: int, picks: Sequence[int] | None) -> npt.NDArray[np.bool_] | None:
    """(outputs, inputs): which weights a convolution in groups, or one that picks, has; None: all."""
    if picks is not None:
        return pick_mask(inputs, picks)
    return group_mask(outputs, inputs, groups) if groups > 1 else None


def wrong_parts(
    sizes: tuple[int, int],
    groups: int,
    picks: Sequence[int] | None,
    kernel: tuple[int, int],
    weight: npt.NDArray[np.float32] | None,
) -> str:
    """What of a convolution's groups or picks does not go with its sizes (outputs, inputs), or its weights with them."""
    outputs, inputs = sizes
    if groups < 1 or inputs % groups or outputs % groups:
        return f"{groups} groups of {inputs} channels to {outputs}; use a divisor"
    if picks is not None and ((len(picks), kernel, groups) != (outputs, (1, 1), 1) or not {*picks} <= {*range(inputs)}):
        return f"kernel {kernel} picks {len(picks)} of {inputs} channels as {outputs}"
    own = part_mask(outputs, inputs, groups, picks)
    if own is not None and weight is not None:
        used: npt.NDArray[np.bool_] = (weight != 0).any((1, 2))
        if used[~own].any():
            return "weights between its groups, or of channels that it does not pick, are not zero"
    return ""


def picks_of(weight: npt.NDArray[np.float32]) -> tuple[int, ...] | None:
    """The input that each output is made of alone, of weights (out, 1, 1, in); None where it is not one each."""
    used = weight[:, 0, 0] != 0
    if weight.shape[1:3] != (1, 1) or weight.shape[3] == 1 or not (used.sum(1) == 1).all():
        return None
    return tuple(used.argmax(1).tolist())


def parts_of(weight: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What a Graph's convolution with these weights, (out, kh, kw, in), says of its parts: `picks`, or else `groups`."""
    picks = picks_of(weight)
    return {"groups": groups_of(weight)} if picks is None else {"picks": picks}


def groups_of(weight: npt.NDArray[np.float32]) -> int:
    """The most groups that a full convolution's weights, (out, kh, kw, in), can be taken for; 1 where all are zero."""
    used = (weight != 0).any((1, 2))
    outputs, inputs = used.shape
    most = math.gcd(outputs, inputs) if used.any() else 1
    for groups in range(most, 1, -1):
        if most % groups or used[0, inputs // groups :].any():  # the first output says no for nearly all that are not
            continue
        if not used[~group_mask(outputs, inputs, groups)].any():
            return groups
    return 1
