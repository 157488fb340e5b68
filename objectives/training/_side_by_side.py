"""Convolutions of small feature maps, computed on several images side by side.

A processor with matrix tiles multiplies 16 pixels of a row at a time, so that of a row of seven more than half of its work is
for nothing, in the forward pass and in both gradients. Images beside each other, with as many zeros between them as the kernel
looks beyond, make one row of about 64 pixels: the same products and sums, of which none crosses from one image to the next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgesearch.objectives.training._device import processor_has_tiles

__all__ = ["side_by_side"]

#: Pixels of a row of images. Measured for maps of 3 to 8 pixels: rows of 32 gain less, those of 128 no more.
_ROW = 64
#: Maps that are wider fill most of a tile themselves: of those of 15 pixels some gained and others lost.
_WIDEST = 8
#: What fewer channels gain, the copies take: single layers of 64 took 0.9 to 1.1 times as long.
_CHANNELS = 128


def side_by_side(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor | None:
    """The convolution of images (N, C, H, W) with kernels (O, C, K, L), as autocast computes it; None where this way is none.

    It is for bfloat16 on a processor with tiles, and kernels that keep the width of a map of at most 8 pixels.
    """
    if images.device.type != "cpu" or images.ndim != 4 or images.shape[-1] > _WIDEST or not processor_has_tiles():
        return None
    kernel = weight.shape[-1]
    if kernel < 3 or 2 * padding[1] != kernel - 1 or (stride, dilation, groups) != ((1, 1), (1, 1), 1):
        return None
    casts = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    casts = casts and torch.float64 not in (images.dtype, weight.dtype)  # which autocast leaves as they are
    if min(weight.shape[:2]) < _CHANNELS or len(images) < 2 or not (casts or images.dtype == weight.dtype == torch.bfloat16):
        return None
    given = (images, weight) if bias is None else (images, weight, bias)
    images, weight, *rest = (tensor.to(torch.bfloat16) for tensor in given)
    result: Tensor = _Beside.apply(images, weight, rest[0] if rest else None, padding)  # type: ignore[no-untyped-call]
    is_plain = not any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in given[:2])
    return result.contiguous() if is_plain else result  # as torch lays its answer out: a network may view it as rows


class _Beside(torch.autograd.Function):
    """The convolution with stride 1. What is kept for the way back are the images as they were."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.biases = padding, None if bias is None else list(bias.shape)
        wide = torch.conv2d(_joined(images, padding[1]), weight, bias, padding=padding)
        return _parted(wide, len(images), images.shape[-1], padding[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gap = ctx.padding[1]
        wanted = list(ctx.needs_input_grad[:3])
        of_images, of_weight, of_bias = torch.ops.aten.convolution_backward(
            _joined(gradient, gap),
            _joined(images, gap),
            weight,
            ctx.biases,
            [1, 1],
            list(ctx.padding),
            [1, 1],
            False,
            [0, 0],
            1,
            wanted,
        )
        if wanted[0]:
            of_images = _parted(of_images, len(images), images.shape[-1], gap)
        return of_images, of_weight, of_bias, None


@lru_cache
def _across(count: int, width: int, gap: int) -> int:
    """How many of `count` images lie side by side."""
    return max(1, min(count, _ROW // (width + gap)))


def _joined(images: Tensor, gap: int) -> Tensor:
    """Images (N, C, H, W) in rows (R, C, H, across * (W + gap)) with zeros between and behind them, channels last."""
    count, channels, height, width = images.shape
    across = _across(count, width, gap)
    pixels = images.permute(0, 2, 3, 1)
    rows = images.new_zeros(-(-count // across), height, across, width + gap, channels)
    full = count // across
    rows[:full, :, :, :width] = pixels[: full * across].reshape(full, across, height, width, channels).transpose(1, 2)
    if full < len(rows):
        rows[full, :, : count - full * across, :width] = pixels[full * across :].transpose(0, 1)
    return rows.flatten(2, 3).permute(0, 3, 1, 2)


def _parted(rows: Tensor, count: int, width: int, gap: int) -> Tensor:
    """The images (N, C, H, W) of rows, channels last; a tensor of its own, which a layer behind may change in place."""
    _, channels, height, _ = rows.shape
    across = _across(count, width, gap)
    apart = rows.permute(0, 2, 3, 1).reshape(len(rows), height, across, width + gap, channels)[..., :width, :]
    shape = (count, channels, height, width)
    images = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
    pixels, full = images.permute(0, 2, 3, 1), count // across
    pixels[: full * across].view(full, across, height, width, channels).copy_(apart[:full].transpose(1, 2))
    if full < len(rows):
        pixels[full * across :].copy_(apart[full, :, : count - full * across].transpose(0, 1))
    return images
