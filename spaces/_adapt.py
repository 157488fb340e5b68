"""Tensors of other shapes made to fit: the first convolution for grey images, and for a smaller kernel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fold_kernel", "sum_colours"]

_COLOURS = 3


def sum_colours(given: Tensor, own: Tensor) -> Tensor | None:
    """A kernel (out, 3, h, w) for images whose three colours are one, (out, 1, h, w), as `own`; None for another shape.

    A grey image then gives what it gives as a coloured one.
    """
    if own.ndim != 4 or own.shape[1] != 1 or given.shape[:2] != (len(own), _COLOURS):
        return None
    return given.float().sum(dim=1, keepdim=True)


def fold_kernel(given: Tensor, own: Tensor) -> Tensor | None:
    """A kernel (out, in, H, W) with the fewer taps of `own`, (out, in, h, w); None where one of its sides is not larger.

    Each tap is the sum of those that it covers, shared by area where it covers a part, so that an even image gives the same. It
    is what the large kernel does to an image that was enlarged by as much: 7 x 7 taps on 64 pixels are 3 x 3 on 32.
    """
    if given.ndim != 4 or own.ndim != 4 or given.shape[:2] != own.shape[:2] or given.shape == own.shape:
        return None
    rows, columns = (_covered(given.shape[side], own.shape[side]) for side in (2, 3))
    if rows is None or columns is None:
        return None
    return torch.einsum("oihw,yh,xw->oiyx", given.double(), rows, columns).float()


def _covered(taps: int, fewer: int) -> Tensor | None:
    """(fewer, taps): the share of each tap that lies under each of fewer ones; None where they are not fewer or as many."""
    if fewer > taps:
        return None
    width = taps / fewer
    starts = torch.arange(fewer, dtype=torch.float64)[:, None] * width
    places = torch.arange(taps, dtype=torch.float64)
    return (torch.minimum(starts + width, places + 1) - torch.maximum(starts, places)).clamp(min=0)
