"""Means as the DPU takes them: a sum times m / 2**s."""

from __future__ import annotations

import math

__all__ = ["average_coefficient", "average_factor"]


def average_coefficient(kernel: tuple[int, int]) -> tuple[int, int]:
    """(m, s) with which the DPU replaces the mean of a window by sum * m / 2**s.

    Fixed pairs for the sizes the hardware knows; otherwise the first s for which round(2**s / k) / 2**s is strictly closest to
    1 / k, k being the number of elements (Vitis AI 3.5, pytorch_nndct).
    """
    known = {(3, 3): (7, 6), (5, 5): (10, 8), (6, 6): (7, 8), (7, 7): (21, 10), (14, 14): (21, 12)}
    known |= {(3, 6): (7, 7), (6, 3): (7, 7)}  # two of them are averaged as one 6 x 6
    if kernel in known:
        return known[kernel]
    k = kernel[0] * kernel[1]
    best, error = (1, 0), abs(1.0 - 1.0 / k)
    for s in range(1, math.ceil(math.log2(128 * k))):
        m = round(2**s / k)
        if abs(m / 2**s - 1.0 / k) < error:
            best, error = (m, s), abs(m / 2**s - 1.0 / k)
    return best


def average_factor(kernel: tuple[int, int]) -> float:
    """What the plain mean is multiplied with on the DPU: k * m / 2**s."""
    m, s = average_coefficient(kernel)
    return float(kernel[0] * kernel[1] * m / 2**s)
