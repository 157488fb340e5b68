"""What a CONV or an ALU reads and writes of the feature maps: input windows with their padding, and output rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit
from edgesearch.board_eval.machine._banks import Banks, Words, row_places, spread

__all__ = ["Rows", "Window"]

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Rows:
    """Output rows: `group` words per pixel, `lines` rows share a bank."""

    bank: int
    address: int
    rows: int
    columns: int
    group: int
    jump: int
    line: int
    lines: int = 1
    offset: int = 0

    @classmethod
    def of_conv(cls, init: ConvInit, conv: Conv) -> Rows:
        """One group of output channels."""
        return cls(
            bank=conv.bank_id_out,
            address=conv.bank_addr_out,
            rows=init.valid_pixel_parallel,
            columns=conv.length,
            group=1,
            jump=init.jump_write,
            line=init.jump_write_endl,
            lines=init.stride_out,
            offset=init.stride_offset_out,
        )

    @classmethod
    def of_alu(cls, init: AluInit, alu: Alu) -> Rows:
        """All channels."""
        return cls(
            bank=alu.bank_id_out,
            address=alu.bank_addr_out,
            rows=alu.valid_pixel_parallel,
            columns=init.length,
            group=init.channel_group,
            jump=init.jump_write,
            line=init.jump_write_endl,
            lines=init.stride_out,
            offset=init.stride_offset_out,
        )

    def words(self, banks: Banks) -> Words:
        """(rows, columns * group)."""
        bank, rounds, line = row_places(banks, self.bank, self.rows, self.lines, self.offset)
        start = self.address + (rounds * self.lines + line) * self.line
        inside = banks.wrapped(start[:, None] + spread(self.columns, self.jump, self.group))
        inside += bank[:, None] * banks.depth
        return inside


@dataclass(frozen=True, slots=True)
class Window:
    """All input rows and columns of some output rows: `height` x `width` pixels of `group` words."""

    bank: int
    addresses: tuple[int, int, int, int]
    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    group: int
    jump: int
    line: int
    offset: int
    #: Channels of every pixel that count as padding, from the end.
    channel_offset: int
    left: int
    top: int
    #: Real columns (rows) after the first of the last window.
    right: int
    bottom: int

    @classmethod
    def of_conv(cls, init: ConvInit, conv: Conv) -> Window:
        """What a CONV reads."""
        return cls(
            bank=conv.bank_id_in,
            addresses=(conv.bank_addr_in, conv.bank_addr_in_1, conv.bank_addr_in_2, conv.bank_addr_in_3),
            rows=init.valid_pixel_parallel,
            columns=conv.length,
            kernel=(init.kernel_h, init.kernel_w),
            stride=(init.stride_h, init.stride_w),
            group=conv.channel_group,
            jump=init.jump_read,
            line=init.jump_read_endl,
            offset=init.stride_offset_in,
            channel_offset=conv.channel_offset,
            left=conv.pad_left,
            top=conv.pad_top,
            right=conv.pad_right,
            bottom=conv.pad_bottom,
        )

    @classmethod
    def of_alu(cls, init: AluInit, alu: Alu) -> Window:
        """What an ALU reads."""
        return cls(
            bank=alu.bank_id_in,
            addresses=(alu.bank_addr_in, alu.bank_addr_in_1, alu.bank_addr_in_2, alu.bank_addr_in_3),
            rows=alu.valid_pixel_parallel,
            columns=init.length,
            kernel=(init.kernel_h, init.kernel_w),
            stride=(init.stride_h, init.stride_w),
            group=init.channel_group,
            jump=init.jump_read,
            line=init.jump_read_endl,
            offset=init.stride_offset_in,
            channel_offset=init.channel_offset,
            left=alu.pad_left,
            top=alu.pad_top,
            right=alu.pad_right,
            bottom=alu.pad_bottom,
        )

    @property
    def height(self) -> int:
        """Input rows."""
        return (self.rows - 1) * self.stride[0] + self.kernel[0]

    @property
    def width(self) -> int:
        """Input columns."""
        return (self.columns - 1) * self.stride[1] + self.kernel[1]

    @property
    def real_rows(self) -> slice:
        """Rows that are no padding."""
        return _real(self.top, self.bottom, self.height, self.kernel[0])

    @property
    def real_columns(self) -> slice:
        """Columns that are no padding."""
        return _real(self.left, self.right, self.width, self.kernel[1])

    def rounds(self, banks: Banks) -> int:
        """How often its rows go through all banks of the group."""
        return int(row_places(banks, self.bank, self.height, self.stride[0], self.offset)[1][-1]) + 1

    def words(self, banks: Banks) -> Words:
        """Words of the real pixels: (real rows, real columns, group)."""
        real_rows, real_columns = self.real_rows, self.real_columns
        bank, rounds, line = (
            places[real_rows] for places in row_places(banks, self.bank, self.height, self.stride[0], self.offset)
        )
        start = np.take(self.addresses, rounds) + line * self.line + real_columns.start * self.jump
        columns = max(0, real_columns.stop - real_columns.start)
        inside = banks.wrapped(start[:, None] + spread(columns, self.jump, self.group))
        inside += bank[:, None] * banks.depth
        return inside.reshape(len(start), columns, self.group)

    def read(self, banks: Banks, memory: npt.NDArray[np.int8], padding: int = 0) -> npt.NDArray[np.int8]:
        """Its values out of all words of the memory (words, lanes): (height, width, group * lanes)."""
        words = self.words(banks)
        values = memory.take(words.reshape(-1), axis=0).reshape(*words.shape[:2], self.group * banks.lanes)
        if values.shape[:2] != (self.height, self.width):
            inner = values
            values = np.full((self.height, self.width, self.group * banks.lanes), padding, np.int8)
            values[self.real_rows, self.real_columns] = inner
        if self.channel_offset:
            values[:, :, values.shape[2] - self.channel_offset :] = padding
        return values

    def taps(self, values: npt.NDArray[_Value], row: int, column: int) -> npt.NDArray[_Value]:
        """What the kernel's place (row, column) meets of (height, width, channels): (rows, columns, channels)."""
        (down, right), (rows, columns) = self.stride, (self.rows, self.columns)
        return values[row : row + (rows - 1) * down + 1 : down, column : column + (columns - 1) * right + 1 : right]


def _real(before: int, complement: int, size: int, kernel: int) -> slice:
    stop = min(size, size - kernel + 1 + complement)
    start = min(before, stop)
    return slice(start, stop)
