"""Weights of convolutions in groups as tensors: the blocks alone, as torch keeps them, and with the zeros around them."""

from __future__ import annotations

import torch
from torch import Tensor

from edgesearch.board_eval.graph import group_mask

__all__ = ["block_mask", "blocks", "spread_blocks"]


def blocks(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, kh, kw): the blocks of weights (out, in, kh, kw) that are zero between `groups` groups."""
    if groups == 1:
        return weight
    outputs, inputs = weight.shape[0] // groups, weight.shape[1] // groups
    parts = weight.reshape(groups, outputs, groups, inputs, *weight.shape[2:])
    own = torch.arange(groups, device=weight.device)
    return parts[own, :, own].reshape(groups * outputs, inputs, *weight.shape[2:])


def block_mask(weight: Tensor, groups: int) -> Tensor:
    """(out, in, 1, 1) of bool for blocks (out, in / groups, kh, kw): which weights of the whole are theirs."""
    return torch.from_numpy(group_mask(len(weight), weight.shape[1] * groups, groups))[:, :, None, None]


def spread_blocks(weight: Tensor, own: Tensor) -> Tensor:
    """The inverse of `blocks`, with what `block_mask` gives; gradients reach the blocks alone."""
    return torch.where(own, weight.repeat(1, own.shape[1] // weight.shape[1], 1, 1), 0)
