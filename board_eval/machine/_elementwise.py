"""ELEW: sums, products, copies and changes of the fix position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Elew, ElewInit
from edgesearch.board_eval.machine._arithmetic import power, to_int8
from edgesearch.board_eval.machine._banks import Banks, Words, row_places, spread
from edgesearch.board_eval.machine._windows import Rows

__all__ = ["PRODUCT", "SUM", "elementwise", "operand_words", "result_words"]

SUM, PRODUCT = 0, 1

#: Operands keep this many bits of a fraction when they are shifted to the right.
_FRACTION = 2
#: `shift_write`: from here on a shift to the right.
_RIGHT = 16


def operand_words(banks: Banks, init: ElewInit, elew: Elew) -> Words:
    """Words of one operand: (rows, columns * channel group)."""
    rows = elew.valid_pixel_parallel
    numbers = slice(0, (rows - 1) * init.jump_bank + 1, init.jump_bank)
    bank, rounds, _ = (p[numbers] for p in row_places(banks, init.bank_id_in, numbers.stop, 1, 0))
    start = init.bank_addr_in + rounds * init.jump_read_endl
    inside = banks.wrapped(start[:, None] + spread(elew.length, init.jump_read, elew.channel_group))
    return inside + bank[:, None] * banks.depth


def result_words(banks: Banks, elew: Elew) -> Words:
    """Words of the result: (rows, columns * channel group)."""
    rows = Rows(
        bank=elew.bank_id_out,
        address=elew.bank_addr_out,
        rows=elew.valid_pixel_parallel,
        columns=elew.length,
        group=elew.channel_group,
        jump=elew.jump_write,
        line=elew.jump_write_endl,
    )
    return rows.words(banks)


def elementwise(banks: Banks, memory: npt.NDArray[np.int8], operands: Sequence[ElewInit], elew: Elew) -> None:
    """Execute one ELEW on the memory (words, lanes)."""
    values = [_operand(banks, memory, init, elew) for init in operands]
    result = values[0]
    for value in values[1:]:
        # Up to four sums of 2^9 or one product of them: exact.
        result = result * value if elew.elew_type == PRODUCT else result + value
    fraction = _FRACTION * (2 if elew.elew_type == PRODUCT else 1)
    result *= power(elew.shift_write, _RIGHT) * 2.0**-fraction
    if elew.act_type:
        np.maximum(result, 0, out=result)
    memory[result_words(banks, elew)] = to_int8(result)


def _operand(banks: Banks, memory: npt.NDArray[np.int8], init: ElewInit, elew: Elew) -> npt.NDArray[np.float64]:
    """floor(4 * value / 2^shift_read): (rows, words, lanes)."""
    values = memory[operand_words(banks, init, elew)].astype(np.int32)
    return (values << _FRACTION >> init.shift_read).astype(np.float64)
