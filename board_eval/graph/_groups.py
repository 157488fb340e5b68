"""Convolutions in groups: each output is made of one part of the inputs, and its other weights are zero.

A Graph keeps such weights whole, as the DPU has them, which knows full and depthwise convolutions: a block for each group, and
zeros around them. (torch keeps the blocks alone.)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["between_groups", "group_mask", "groups_of", "spread"]


def group_mask(outputs: int, inputs: int, groups: int) -> npt.NDArray[np.bool_]:
    """(outputs, inputs): whether an output is made of an input, both in `groups` equal parts."""
    made: npt.NDArray[np.int64] = np.arange(outputs) // (outputs // groups)
    read: npt.NDArray[np.int64] = np.arange(inputs) // (inputs // groups)
    return np.equal(made[:, None], read[None, :])


def between_groups(weight: npt.NDArray[np.float32], groups: int) -> npt.NDArray[np.float32]:
    """Of weights (out, kh, kw, in) those that are zero in a convolution in `groups`: (count, kh, kw)."""
    return weight.transpose(0, 3, 1, 2)[~group_mask(weight.shape[0], weight.shape[3], groups)]


def spread(weight: npt.NDArray[np.float32], groups: int) -> npt.NDArray[np.float32]:
    """A convolution's weights in torch's blocks, (out, in / groups, kh, kw), as those of a full one: (out, in, kh, kw)."""
    if groups == 1:
        return weight
    mask = group_mask(len(weight), weight.shape[1] * groups, groups)
    return np.where(mask[:, :, None, None], np.tile(weight, (1, groups, 1, 1)), np.float32(0))


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
