"""Sliding windows, concatenations and reshapes of NCHW tensors exactly as a Graph's nodes define them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgesearch.board_eval.graph._graph import Concat, Pool, Reshape, window_output


def pool_sums_or_maxima(node: Pool, x: torch.Tensor, source: Sequence[int]) -> torch.Tensor:
    """Maxima of the windows of x (N, C, H, W), or their sums for an average pool; `source` is (H, W, C) of x."""
    pads, padding, ceil = _windows(node, source)
    if pads is not None:
        x = F.pad(x, pads, value=-torch.inf if node.kind == "max" else 0.0)
    if node.kind == "max":
        return F.max_pool2d(x, node.kernel, node.stride, padding, ceil_mode=ceil)
    if pads is None and padding == (0, 0) and node.kernel == tuple(source[:2]) and node.shape[:2] == (1, 1):
        return x.sum((2, 3), keepdim=True)
    return F.avg_pool2d(x, node.kernel, node.stride, padding, ceil_mode=ceil, divisor_override=1)


def _windows(node: Pool, source: Sequence[int]) -> tuple[tuple[int, int, int, int] | None, tuple[int, int], bool]:
    """How torch can slide the pool's windows: (left, right, top, bottom) to pad with first or None, its padding, ceil_mode."""
    (height, width), (out_h, out_w) = source[:2], node.shape[:2]
    left, _, top, _ = node.padding
    for ceil in (False, True):
        if 2 * left > node.kernel[1] or 2 * top > node.kernel[0]:
            break
        counts = (
            window_output(height, 2 * top, node.kernel[0], node.stride[0], ceil=ceil),
            window_output(width, 2 * left, node.kernel[1], node.stride[1], ceil=ceil),
        )
        # torch drops a last window that starts in the padding; the DPU does not
        starts_inside = (out_h - 1) * node.stride[0] < height + top and (out_w - 1) * node.stride[1] < width + left
        if counts == (out_h, out_w) and (starts_inside or not ceil):
            return None, (top, left), ceil
    right = (out_w - 1) * node.stride[1] + node.kernel[1] - width - left
    bottom = (out_h - 1) * node.stride[0] + node.kernel[0] - height - top
    return (left, right, top, bottom), (0, 0), False


def concat_dimension(node: Concat) -> int:
    """The dimension of an NCHW (or NC) tensor that the concat's axis of (H, W, C) (or (C,)) is."""
    return {0: 2, 1: 3, 2: 1}[node.axis] if len(node.shape) == 3 else node.axis + 1


def reshape_value(node: Reshape, x: torch.Tensor) -> torch.Tensor:
    """The reshape's value: elements in (H, W, C) order, images again as (N, C, H, W)."""
    y = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(len(x), *node.shape)
    return y.permute(0, 3, 1, 2) if y.ndim == 4 else y
