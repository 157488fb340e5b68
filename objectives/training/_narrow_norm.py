"""Batch-norm of narrow layers, several pixels taken for one that has as many times the channels.

torch's kernel sums each channel in one row of numbers per thread, and the rows lie one behind the other. Where a row does not
fill whole cache lines, threads write to the same line and wait for each other (benchmarks/narrow_layers.py). Pixels with their
channels last are rows as well, so that k pixels of C channels are read as one of k C; its sums are added up by channel
afterwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["narrow_norm"]

#: Float32 numbers of a cache line; sums of so many channels, or a multiple, lie in lines of their own.
_LINE = 16
#: Channels of the pixels that are made, where their number allows it: vectors are full, too.
_ROWS = (64, 32, _LINE)
#: From so many channels on, a row's ends are a small part of it.
_WIDEST = 48


def narrow_norm(
    images: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor | None:
    """`torch.nn.functional.batch_norm` of images (N, C, H, W) in training; None where this way is none.

    It is for several threads of a CPU, float32 and bfloat16, and for fewer than 48 channels that lie last and are no multiple
    of 16, where their pixels can be put together. `mean` and `variance` are the running ones, changed as torch changes them.
    """
    settings = [tensor for tensor in (mean, variance, weight, bias) if tensor is not None]
    if not training or not _is_fit(images) or any(tensor.dtype != torch.float32 for tensor in settings):
        return None
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return None  # torch.utils.checkpoint computes the layer again on the way back, by torch's own kernel: both must be it
    together = _together(images.shape)
    if together is None:
        return None
    made: tuple[Tensor, Tensor, Tensor] = _NarrowNorm.apply(images, weight, bias, together, eps)  # type: ignore[no-untyped-call]
    result, found, spread = made
    with torch.no_grad():
        pixels = images.numel() // images.shape[1]
        if mean is not None:
            mean.lerp_(found, momentum)
        if variance is not None:
            variance.lerp_(spread * (pixels / (pixels - 1)), momentum)
    return result


def _is_fit(images: Tensor) -> bool:
    if images.device.type != "cpu" or images.ndim != 4 or images.dtype not in (torch.float32, torch.bfloat16):
        return False
    is_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return is_last and torch.get_num_threads() > 1


def _together(shape: torch.Size) -> int | None:
    """How many pixels of images (N, C, H, W) are taken for one, None if they are best left as they are."""
    count, channels, height, width = shape
    if channels % _LINE == 0 or channels >= _WIDEST:
        return None
    # Of all even numbers of images alike: memory is foretold by steps on two images and on four.
    pixels = height * width * math.gcd(count, 2)
    counts = (math.lcm(channels, row) // channels for row in _ROWS)
    return next((each for each in counts if pixels % each == 0 and pixels > each), None)


class _NarrowNorm(torch.autograd.Function):
    """The normalised images, and mean and biased variance (C) of the batch."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, together: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = images.shape[1]
        rows = _rows(images, together)
        means, spreads = (torch.zeros(together * channels) for _ in range(2))
        torch.batch_norm_update_stats(_as_image(rows), means, spreads, 1.0)
        means, spreads = means.view(together, channels), spreads.view(together, channels) * ((len(rows) - 1) / len(rows))
        mean = means.mean(0)
        variance = (spreads + (means - mean).square()).mean(0)
        factor = torch.ones(channels) if weight is None else weight
        shift = torch.zeros(channels) if bias is None else bias
        result = torch.empty_like(images, memory_format=torch.channels_last)
        _normalise(
            rows, [one.repeat(together) for one in (factor, shift, mean, variance)], eps, _as_image(_rows(result, together))
        )
        ctx.save_for_backward(images, factor, mean, variance)
        ctx.together, ctx.eps = together, eps
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, factor, mean, variance = ctx.saved_tensors
        together, channels = ctx.together, images.shape[1]
        rows, above = _rows(images, together), _rows(gradient, together)
        deviation = torch.rsqrt(variance + ctx.eps)
        factors, means, variances, deviations = (one.repeat(together) for one in (factor, mean, variance, deviation))
        wanted = [ctx.needs_input_grad[0], True, True]
        of_rows, *sums = torch.ops.aten.native_batch_norm_backward(
            _as_image(above), _as_image(rows), factors, None, None, means, deviations, True, ctx.eps, wanted
        )
        by_column = [one.view(together, channels) for one in sums]
        of_images = None
        if of_rows is not None:
            # f / s (g - mean(g) - n mean(g n)), where n are the normalised numbers, f the factor, s the standard deviation; its
            # means are those of a column, and are to be those of the channel.
            scale = factor * deviation
            slope, shift = ((scale * (one - one.mean(0)) / len(rows)).flatten() for one in by_column)
            rest = torch.empty_like(of_rows)
            _normalise(rows, [slope, shift, means, variances], ctx.eps, rest)
            pixels = of_rows.add_(rest).permute(0, 2, 3, 1)
            of_images = pixels.reshape(images.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        wanted = ctx.needs_input_grad[1:3]
        totals = [one.sum(0) if is_wanted else None for one, is_wanted in zip(by_column, wanted, strict=True)]
        return of_images, *totals, None, None


def _normalise(rows: Tensor, given: list[Tensor], eps: float, out: Tensor) -> None:
    """Rows (R, K) normalised by factor, shift, mean and variance (K) that are `given`, written to an image (1, K, R, 1)."""
    factor, shift, mean, variance = given
    unused = torch.empty(0), torch.empty(0)  # statistics, which are not taken here
    torch.native_batch_norm(_as_image(rows), factor, shift, mean, variance, False, 0.0, eps, out=(out, *unused))


def _rows(images: Tensor, together: int) -> Tensor:
    """Images (N, C, H, W) as rows (R, K) of so many pixels each; a view of those whose channels lie last."""
    return images.permute(0, 2, 3, 1).reshape(-1, together * images.shape[1])


def _as_image(rows: Tensor) -> Tensor:
    """Rows (R, K) as one image (1, K, R, 1), its channels last."""
    return rows.view(1, len(rows), 1, -1).permute(0, 3, 1, 2)
