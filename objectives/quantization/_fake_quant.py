"""Rounding with a gradient: the DPU's grid in the forward pass, straight through in the backward pass.

Thresholds are trained as in TQT (arXiv 1903.08066): one number log2 t per tensor, of which the fix position
bits - 1 - ceil(log2 t) is made, so that the scale is a power of two at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgesearch.board_eval.graph import limits
from edgesearch.errors import NotFinite
from edgesearch.objectives.quantization._positions import MAX_FIX

_LN2 = math.log(2.0)
_HALF = 0.5
_MIN_FIX = -16


def threshold_of(fix: int, bits: int) -> float:
    """The log2 threshold in the middle of those that give `fix`."""
    return bits - 1 - fix - 0.5


def fixes_of(thresholds: Sequence[Tensor], bits: int) -> list[int]:
    """The fix positions that log2 thresholds stand for. A GPU is waited for, once for all of them: see `scales_of`.

    Raises NotFinite for a threshold that is NaN or infinite.
    """
    values = torch.stack([threshold.detach() for threshold in thresholds]).tolist() if thresholds else []
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise NotFinite(f"a threshold of quantization-aware training became {wrong[0]}")
    return [max(_MIN_FIX, min(MAX_FIX, bits - 1 - math.ceil(value))) for value in values]


class Scale(NamedTuple):
    """What brings a value to a grid of whole numbers, and what brings it back: 2^fix and 2^-fix, tensors ()."""

    up: Tensor
    down: Tensor


def scales_of(thresholds: Sequence[Tensor], bits: int) -> list[Scale]:
    """The scales that log2 thresholds stand for, where these are: a GPU is not waited for.

    Both numbers of a threshold that is NaN or infinite are NaN, and so is what is rounded by them.
    """
    values = torch.stack([threshold.detach() for threshold in thresholds])
    fixes = (bits - 1 - values.ceil()).clamp(_MIN_FIX, MAX_FIX)
    sane = values.isfinite()
    up, down = (torch.where(sane, _power_of_two(sign * fixes.nan_to_num()), torch.nan) for sign in (1, -1))
    return [Scale(*each) for each in zip(up.unbind(), down.unbind(), strict=True)]


def _power_of_two(exponent: Tensor) -> Tensor:
    """2 to the power of whole numbers, exact: they are written where float32 keeps its exponent."""
    return ((exponent.int() + 127) << 23).view(torch.float32)


class _RoundValue(torch.autograd.Function):
    """relu, clamp at `top` and rounding half up in one. `top` is None where the range ends before it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, fix: int, low: int, high: int, top: float | None) -> Tensor:
        y = torch.mul(x, 2.0**fix).add_(0.5).floor_().clamp_(low, high).mul_(2.0**-fix)
        ctx.save_for_backward(x, y)
        # a value that rounds to the end of the range without being clamped still passes its gradient
        ctx.ends = ((low - 0.5) * 2.0**-fix if low else 0.0, (high + 0.5) * 2.0**-fix)
        ctx.top = top
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        x, y = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends)
        slope = None
        if ctx.needs_input_grad[1]:
            # inside: rounded - x; clamped by the threshold: the end itself, which moves with it; clamped at the top, which
            # does not move: rounded - top (all times ln 2)
            moved = y if ctx.top is None else y - ctx.top * (x >= ctx.ends[1])
            slope = ((grad * moved).sum() - (passed * x).sum()).mul_(_LN2)
        return passed, slope, None, None, None, None


class _RoundWeight(torch.autograd.Function):
    """Rounding half away from zero, saturating."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, threshold: Tensor, fix: int, low: int, high: int, top: None) -> Tensor:
        scaled = w * 2.0**fix
        y = torch.trunc(scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled)).clamp_(low, high).mul_(2.0**-fix)
        ctx.save_for_backward(w, y)
        ctx.ends = ((low - 0.5) * 2.0**-fix, (high + 0.5) * 2.0**-fix)
        ctx.top = top
        return y

    backward = _RoundValue.backward


class _RoundByScale(torch.autograd.Function):
    """Both of the above, the grid in tensors: its scale, the highest number, and `top`, 0 where the range ends before it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, threshold: Tensor, scale: Scale, low: int, high: Tensor, top: Tensor | None, away: bool
    ) -> Tensor:
        scaled = x * scale.up
        whole = (
            torch.trunc(scaled + torch.copysign(torch.full_like(scaled, _HALF), scaled))
            if away
            else scaled.add_(_HALF).floor_()
        )
        y = torch.minimum(whole.clamp_min_(low), high).mul_(scale.down)
        ctx.save_for_backward(x, y, scale.down, high, top)
        ctx.low = low
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None, None]:
        x, y, down, high, top = ctx.saved_tensors
        end = (high + _HALF) * down
        inside = (x > ((ctx.low - _HALF) * down if ctx.low else 0.0)) & (x < end)
        passed = torch.where(inside, grad, 0.0)
        slope = None
        if ctx.needs_input_grad[1]:
            moved = y if top is None else y - top * (x >= end)
            slope = ((grad * moved).sum() - (passed * x).sum()).mul_(_LN2)
        return passed, slope, None, None, None, None, None


def _round_by_scale(
    x: Tensor, threshold: Tensor, scale: Scale, low: int, high: int, *, top: float | None = None, away: bool = False
) -> Tensor:
    end = torch.full_like(scale.up, high)
    stop: Tensor | None = None
    if top is not None:
        rounded_top = (top * scale.up + _HALF).floor()
        stop = torch.where(rounded_top <= end, top, 0.0)
        end = torch.minimum(rounded_top, end)
    rounded: Tensor = _RoundByScale.apply(x, threshold, scale, low, end, stop, away)  # type: ignore[no-untyped-call]
    return rounded


def round_value(
    x: Tensor, threshold: Tensor, fix: int | Scale, bits: int, *, relu: bool = False, top: float | None = None
) -> Tensor:
    """`x` rounded half up at `fix`, the threshold's position; with `relu` clamped at 0, and at `top` (6 for relu6), before."""
    low, high = limits(bits)
    if relu:
        low = 0
    if isinstance(fix, Scale):
        return _round_by_scale(x, threshold, fix, low, high, top=top)
    if top is not None:
        rounded_top = math.floor(top * 2.0**fix + 0.5)
        high, top = (rounded_top, top) if rounded_top <= high else (high, None)
    rounded: Tensor = _RoundValue.apply(x, threshold, fix, low, high, top)  # type: ignore[no-untyped-call]
    return rounded


def round_weight(w: Tensor, threshold: Tensor, fix: int | Scale, bits: int) -> Tensor:
    """`w` rounded half away from zero at `fix`, the threshold's position."""
    if isinstance(fix, Scale):
        return _round_by_scale(w, threshold, fix, *limits(bits), away=True)
    rounded: Tensor = _RoundWeight.apply(w, threshold, fix, *limits(bits), None)  # type: ignore[no-untyped-call]
    return rounded
