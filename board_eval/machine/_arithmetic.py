"""Rounding and activations: from exact values to int8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LEAKY", "NONE", "RELU", "RELU6", "activated", "power", "to_int8"]

NONE, RELU, LEAKY, RELU6 = 0, 1, 3, 4
#: Leaky ReLU: a value below 0 times this.
_SLOPE = 26 / 256
#: ReLU6 clamps the rounded value to this: 6 at fix position 4, the only one it is made for.
_SIX = 96


def to_int8(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Half up, saturated. `values` must be exact; they are changed."""
    values += 0.5
    np.floor(values, out=values)
    np.clip(values, -128, 127, out=values)
    return values.astype(np.int8)


def activated(values: npt.NDArray[np.float64], act_type: int) -> npt.NDArray[np.float64]:
    """An activation, before the rounding; changes `values`.

    26/256 of a sum of products has at most 5 bits more than the sum, so that float64 stays exact.
    """
    if act_type == RELU:
        np.maximum(values, 0, out=values)
    elif act_type == RELU6:
        np.clip(values, 0, _SIX, out=values)
    elif act_type == LEAKY:
        values[values < 0] *= _SLOPE
    return values


def power(code: int, right_from: int) -> float:
    """The factor of a shift field: to the left by `code`, from `right_from` on to the right by what lies above it."""
    return 2.0 ** (code if code < right_from else right_from - code)
