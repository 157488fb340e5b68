"""ALU: pooling, depthwise convolutions and leaky ReLU, all channels at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, AluInit
from edgesearch.board_eval.machine._arithmetic import activated, power, to_int8
from edgesearch.board_eval.machine._banks import Banks, Words, spread
from edgesearch.board_eval.machine._windows import Rows, Window

__all__ = ["AVERAGE", "DEPTHWISE", "LEAKY_RELU", "MAXIMUM", "alu", "bias_words", "depthwise_words"]

DEPTHWISE, AVERAGE, MAXIMUM, LEAKY_RELU = 0, 2, 3, 4

#: `shift_cut` of pooling: from here on a shift to the right.
_POOL_RIGHT = 8
#: `shift_prelu_p` and `shift_prelu_n`: from here on a shift to the right.
_LEAKY_RIGHT = 32


def depthwise_words(banks: Banks, init: AluInit, alu: Alu) -> Words:
    """Words of depthwise weights: (kernel rows * kernel columns * channel group,)."""
    taps = init.kernel_h * init.kernel_w
    inside = banks.wrapped(alu.bank_addr_weights + spread(taps, init.jump_read_weights, init.channel_group))
    return inside + banks.depthwise * banks.depth


def bias_words(banks: Banks, init: AluInit, alu: Alu) -> Words:
    """Words of depthwise biases: (channel group,)."""
    return banks.piece(banks.biases, alu.bank_addr_bias, 1, 1, init.channel_group)


def alu(banks: Banks, memory: npt.NDArray[np.int8], init: AluInit, alu: Alu) -> None:
    """Execute one ALU on the memory (words, lanes)."""
    window = Window.of_alu(init, alu)
    values = window.read(banks, memory, -128 if init.exec_mode == MAXIMUM else 0)  # (height, width, channels)
    if init.exec_mode == DEPTHWISE:
        result = _depthwise(banks, memory, init, alu, window, values)
    elif init.exec_mode == MAXIMUM:
        result = _maximum(window, values) * power(init.shift_cut, _POOL_RIGHT)
    elif init.exec_mode == AVERAGE:
        # The factor is a signed byte: fractions above 127/2^n cannot be written.
        factor = (init.multi_factor ^ 0x80) - 0x80
        result = _total(window, values) * (factor * power(init.shift_cut, _POOL_RIGHT))
    else:
        below = init.multi_factor * power(init.shift_prelu_n, _LEAKY_RIGHT)
        result = np.where(values < 0, below, power(init.shift_prelu_p, _LEAKY_RIGHT)) * values
    memory[Rows.of_alu(init, alu).words(banks)] = to_int8(result).reshape(window.rows, -1, banks.lanes)


def _maximum(window: Window, values: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """The largest value of every window: along its columns first, then along its rows."""
    (rows, columns), (down, right) = window.kernel, window.stride
    across = values[:, : (window.columns - 1) * right + 1 : right].copy()
    for column in range(1, columns):
        np.maximum(across, values[:, column : column + (window.columns - 1) * right + 1 : right], out=across)
    found = across[: (window.rows - 1) * down + 1 : down].copy()
    for row in range(1, rows):
        np.maximum(found, across[row : row + (window.rows - 1) * down + 1 : down], out=found)
    return found.astype(np.float64)


def _total(window: Window, values: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """The sum of every window: 256 x 256 values of a byte stay below 2^24."""
    (rows, columns), (down, right) = window.kernel, window.stride
    across = np.zeros((window.height, window.columns, values.shape[2]), np.int32)
    for column in range(columns):
        across += values[:, column : column + (window.columns - 1) * right + 1 : right]
    total = np.zeros((window.rows, *across.shape[1:]), np.int32)
    for row in range(rows):
        total += across[row : row + (window.rows - 1) * down + 1 : down]
    return total.astype(np.float64)


def _depthwise(
    banks: Banks, memory: npt.NDArray[np.int8], init: AluInit, alu: Alu, window: Window, values: npt.NDArray[np.int8]
) -> npt.NDArray[np.float64]:
    taps = init.kernel_h * init.kernel_w
    weights = memory[depthwise_words(banks, init, alu)].reshape(taps, -1).astype(np.int32)
    bias = memory[bias_words(banks, init, alu)].reshape(-1)
    # At most 2^16 products of at most 2^14: a sum has 31 bits.
    wide = values.astype(np.int32)
    total = np.zeros((window.rows, window.columns, wide.shape[2]), np.int32)
    for tap in range(taps):
        total += window.taps(wide, tap // init.kernel_w, tap % init.kernel_w) * weights[tap]
    result = total.astype(np.float64)
    result *= 2.0**-init.shift_cut
    result += bias * 2.0 ** (init.shift_bias - init.shift_cut - 1)
    return activated(result, init.act_type)
