"""Batch-norm as a factor and a shift per channel, folded into the layer in front of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from edgesearch.board_eval.graph import Array, Conv, Depthwise, Linear, Node
from edgesearch.board_eval.lowering._weights import array, parameter_of


def batch_norm_factors(module: nn.BatchNorm2d | nn.BatchNorm1d) -> tuple[Array, Array]:
    """(scale, shift), (C,) float32 each, of a batch-norm as y = x * scale + shift.

    In float32 and in this order, as pytorch_nndct computes them; numpy's square root is correctly rounded, torch's on a CPU is
    one unit in the last place off for every sixth value.
    """
    assert module.running_mean is not None  # the caller has checked
    assert module.running_var is not None
    mean, variance = array(module.running_mean), array(module.running_var)
    scale: Array = np.float32(1) / np.sqrt(variance + np.float32(module.eps))
    if module.weight is not None:
        scale = array(parameter_of(module, "weight")) / np.sqrt(variance + np.float32(module.eps))
    return scale, -mean * scale if module.bias is None else array(parameter_of(module, "bias")) - mean * scale


def fold_batch_norm(node: Conv | Depthwise | Linear, scale: Array, shift: Array) -> Node:
    """The layer followed by y = x * scale + shift per channel, as one layer."""
    bias = shift if node.bias is None else node.bias * scale + shift
    weight = node.weight
    if weight is not None:
        weight = weight * scale if isinstance(node, Depthwise) else weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return dataclasses.replace(node, weight=weight, bias=bias.astype(np.float32), has_bias=True)
