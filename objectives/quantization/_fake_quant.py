"""Rounding with a gradient: the DPU's grid in the forward pass, straight through in the backward pass.

Thresholds are trained as in TQT (arXiv 1903.08066): one number log2 t per tensor, of which the fix position
bits - 1 - ceil(log2 t) is made, so that the scale is a power of two at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgesearch.board_eval.graph import limits
from edgesearch.errors import NotFinite
from edgesearch.objectives.quantization._positions import MAX_FIX

_LN2 = math.log(2.0)
_MIN_FIX = -16


def threshold_of(fix: int, bits: int) -> float:
    """The log2 threshold in the middle of those that give `fix`."""
    return bits - 1 - fix - 0.5


def fixes_of(thresholds: Sequence[Tensor], bits: int) -> list[int]:
    """The fix positions that log2 thresholds stand for. A GPU is waited for once for all of them.

    Raises NotFinite for a threshold that is NaN or infinite.
    """
    values = torch.stack([threshold.detach() for threshold in thresholds]).tolist() if thresholds else []
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise NotFinite(f"a threshold of quantization-aware training became {wrong[0]}")
    return [max(_MIN_FIX, min(MAX_FIX, bits - 1 - math.ceil(value))) for value in values]


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


def round_value(x: Tensor, threshold: Tensor, fix: int, bits: int, *, relu: bool = False, top: float | None = None) -> Tensor:
    """`x` rounded half up at `fix`, the threshold's position; with `relu` clamped at 0, and at `top` (6 for relu6), before."""
    low, high = limits(bits)
    if top is not None:
        rounded_top = math.floor(top * 2.0**fix + 0.5)
        high, top = (rounded_top, top) if rounded_top <= high else (high, None)
    rounded: Tensor = _RoundValue.apply(x, threshold, fix, 0 if relu else low, high, top)  # type: ignore[no-untyped-call]
    return rounded


def round_weight(w: Tensor, threshold: Tensor, fix: int, bits: int) -> Tensor:
    """`w` rounded half away from zero at `fix`, the threshold's position."""
    rounded: Tensor = _RoundWeight.apply(w, threshold, fix, *limits(bits), None)  # type: ignore[no-untyped-call]
    return rounded
