"""CONV: one group of output channels of some rows of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Conv, ConvInit
from edgesearch.board_eval.machine._arithmetic import activated, to_int8
from edgesearch.board_eval.machine._banks import Banks, Words, spread
from edgesearch.board_eval.machine._windows import Rows, Window

__all__ = ["Convolution", "weight_words"]

#: Integers up to this are exact in float32.
_EXACT = 1 << 24


def weight_words(banks: Banks, init: ConvInit, conv: Conv) -> Words:
    """Words of the weights: (output lanes, kernel rows * kernel columns * channel group)."""
    count = init.kernel_h * init.kernel_w * conv.channel_group
    inside = banks.wrapped(conv.bank_addr_weights + spread(count, 1, 1))
    bank = np.arange(banks.weights, banks.depthwise, dtype=np.intp)[:, None]
    return bank * banks.depth + inside


class Convolution:
    """Executes CONVs on one memory (words, lanes); keeps the last window, which the next group of channels reads again."""

    def __init__(self, banks: Banks, memory: npt.NDArray[np.int8]) -> None:
        self._banks = banks
        self._memory = memory
        self._values = np.empty((0, 0, 0), np.int8)
        self._floats = np.empty((0, 0, 0), np.float32)

    def run(self, init: ConvInit, conv: Conv) -> None:
        """Execute one CONV."""
        banks, memory = self._banks, self._memory
        window = Window.of_conv(init, conv)
        bias = memory[banks.biases * banks.depth + conv.bank_addr_bias]
        sums = self._sums(window, memory.take(weight_words(banks, init, conv), axis=0)).astype(np.float64)
        # (2 * sum + bias * 2^shift_bias) / 2^(shift_cut + 1), exact: numerators have less than 53 bits.
        sums *= 2.0**-init.shift_cut
        sums += bias * 2.0 ** (init.shift_bias - init.shift_cut - 1)
        places = Rows.of_conv(init, conv).words(banks)
        memory[places] = to_int8(activated(sums, init.act_type))

    def _sums(self, window: Window, weights: npt.NDArray[np.int8]) -> npt.NDArray[np.floating[Any]]:
        """Exact sums of products, (rows, columns, output lanes), of weights (output lanes, words, lanes).

        All partial sums are integers of at most 128 * sum |weight|. Where that is at most 2^24 float32 holds each of them, in
        whatever order they are added; float64 does so up to 2^53, which no kernel reaches that fits a bank.
        """
        values = window.read(self._banks, self._memory)
        factors = weights.astype(np.float32).reshape(len(weights), -1)  # (lanes out, taps * channels in)
        if factors.shape[1] * 128 * 128 > _EXACT and np.abs(factors).sum(axis=1).max() * 128 > _EXACT:
            return _products(window, values.astype(np.float64), factors.astype(np.float64))
        if not np.array_equal(values, self._values):
            self._values, self._floats = values, values.astype(np.float32)
        return _products(window, self._floats, factors)


def _products(
    window: Window, values: npt.NDArray[np.floating[Any]], factors: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    """Sums over the kernel: values (height, width, channels), factors (lanes, taps * channels) -> (rows, columns, lanes)."""
    rows, columns = window.kernel
    by_tap = factors.reshape(len(factors), rows * columns, -1).transpose(1, 2, 0)  # (taps, channels, lanes)
    if window.kernel == (1, 1) and window.stride == (1, 1):
        height, width, channels = values.shape
        product: npt.NDArray[np.floating[Any]] = values.reshape(-1, channels) @ by_tap[0]
        return product.reshape(height, width, -1)
    total = np.zeros((window.rows, window.columns, len(factors)), values.dtype)
    for row in range(rows):
        for column in range(columns):
            total += window.taps(values, row, column) @ by_tap[row * columns + column]
    return total
