"""The instructions that compiled files hold, field by field.

Word layout: as files of AMD's compiler 3.5 for this DPU show it; decoding and encoding them again gives the same bytes. Bits
that no field names are 0 in all of them. Addresses in banks and jumps are in words of `input_parallel` int8 values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from edgesearch.board_eval.isa._field import Engine, Instruction, bits

__all__ = ["INSTRUCTIONS", "Alu", "AluInit", "Conv", "ConvInit", "Elew", "ElewInit", "End", "Load", "Save"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Instruction):
    """`length` pieces of `channel` bytes from external memory into one bank."""

    MNEMONIC: ClassVar[str] = "LOAD"
    OPCODE: ClassVar[int] = 0x0
    WORDS: ClassVar[int] = 5
    ENGINE: ClassVar[Engine] = Engine.LOAD

    bank_id: int = bits(0, 19, 14, "bank that is written")
    bank_addr: int = bits(0, 11, 0, "its first word")
    jump_write: int = bits(1, 9, 0, "words from piece to piece in the bank", minus_one=True)
    jump_read: int = bits(1, 25, 10, "bytes from piece to piece in memory", minus_one=True)
    length: int = bits(2, 9, 0, "pieces", minus_one=True)
    channel: int = bits(2, 23, 10, "bytes of a piece", minus_one=True)
    pad_idx: int = bits(2, 31, 27, "pieces from the end on that `pad_end` masks", minus_one=True)
    reg_id: int = bits(3, 2, 0, "register with the base address")
    const_value: int = bits(3, 15, 8, "byte that is written instead, where `broadcast` is 7")
    broadcast: int = bits(3, 19, 16, "7: write `const_value`")
    mode_avg: int = bits(3, 21, 20, "subtraction of a mean")
    pad_end: int = bits(3, 26, 22, "bytes masked at the end of the last pieces, the last word's rest counted")
    pad_start: int = bits(3, 31, 27, "bytes masked at the start of the first pieces")
    ddr_addr: int = bits(4, 28, 0, "byte address behind the base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Save(Instruction):
    """`length` pieces of `channel` bytes from one bank into external memory."""

    MNEMONIC: ClassVar[str] = "SAVE"
    OPCODE: ClassVar[int] = 0x4
    WORDS: ClassVar[int] = 5
    ENGINE: ClassVar[Engine] = Engine.SAVE

    bank_id: int = bits(0, 19, 14, "bank that is read")
    bank_addr: int = bits(0, 11, 0, "its first word")
    jump_read: int = bits(1, 9, 0, "words from piece to piece in the bank", minus_one=True)
    jump_write: int = bits(1, 25, 10, "bytes from piece to piece in memory", minus_one=True)
    argmax: int = bits(1, 28, 27, "store the largest channel's index or value instead")
    hp_id: int = bits(1, 30, 29, "memory port")
    length: int = bits(2, 9, 0, "pieces", minus_one=True)
    channel: int = bits(2, 21, 10, "bytes of a piece", minus_one=True)
    reg_id: int = bits(3, 2, 0, "register with the base address")
    const_value: int = bits(3, 15, 8, "byte that is stored instead, where `const_en` is 1")
    const_en: int = bits(3, 16, 16, "store `const_value`")
    ddr_addr: int = bits(4, 28, 0, "byte address behind the base")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvInit(Instruction):
    """Settings of the CONVs that follow."""

    MNEMONIC: ClassVar[str] = "CONVINIT"
    OPCODE: ClassVar[int] = 0x9
    WORDS: ClassVar[int] = 4
    ENGINE: ClassVar[Engine] = Engine.CONV

    act_type: int = bits(0, 19, 16, "0 none, 1 ReLU, 3 leaky ReLU, 4 ReLU6 at fix position 4")
    shift_cut: int = bits(0, 15, 10, "fix(in) + fix(weight) - fix(out)")
    shift_bias: int = bits(1, 15, 10, "fix(in) + fix(weight) - fix(bias) + 1")
    kernel_h: int = bits(2, 27, 24, "rows of the kernel", minus_one=True)
    kernel_w: int = bits(3, 27, 24, "columns of the kernel", minus_one=True)
    stride_h: int = bits(2, 31, 28, "rows from window to window", minus_one=True)
    stride_w: int = bits(3, 31, 28, "columns from window to window", minus_one=True)
    valid_pixel_parallel: int = bits(2, 15, 13, "output rows", minus_one=True)
    jump_read: int = bits(0, 9, 0, "words from column to column of the input", minus_one=True)
    jump_read_endl: int = bits(1, 9, 0, "words from row to row of the input in one bank", minus_one=True)
    jump_write: int = bits(2, 9, 0, "words from column to column of the output", minus_one=True)
    jump_write_endl: int = bits(3, 9, 0, "words from row to row of the output in one bank", minus_one=True)
    stride_out: int = bits(1, 31, 28, "output rows that share a bank", minus_one=True)
    stride_offset_in: int = bits(2, 12, 10, "rows of the first bank before the first input row")
    stride_offset_out: int = bits(3, 12, 10, "rows of the first bank before the first output row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Instruction):
    """One group of output channels of some rows of a convolution."""

    MNEMONIC: ClassVar[str] = "CONV"
    OPCODE: ClassVar[int] = 0x8
    WORDS: ClassVar[int] = 5
    ENGINE: ClassVar[Engine] = Engine.CONV

    bank_id_in: int = bits(2, 17, 12, "bank of the first input row")
    bank_addr_in: int = bits(0, 11, 0, "word of the first input row")
    bank_addr_in_1: int = bits(3, 29, 18, "the same after one round through the banks")
    bank_addr_in_2: int = bits(4, 11, 0, "after two")
    bank_addr_in_3: int = bits(4, 23, 12, "after three")
    bank_id_out: int = bits(3, 17, 12, "bank of the first output row")
    bank_addr_out: int = bits(1, 11, 0, "word of the first output row, the channel group counted")
    bank_addr_weights: int = bits(2, 11, 0, "first word of the weights")
    bank_addr_bias: int = bits(3, 11, 0, "word of the biases")
    length: int = bits(2, 31, 22, "output columns", minus_one=True)
    channel_group: int = bits(1, 31, 24, "words of an input pixel", minus_one=True)
    channel_offset: int = bits(4, 28, 24, "channels of the last word that do not count")
    pad_left: int = bits(0, 19, 16, "columns of zeros on the left")
    pad_top: int = bits(0, 15, 12, "rows of zeros on top")
    pad_right: int = bits(1, 19, 16, "real columns after the first of the last window")
    pad_bottom: int = bits(1, 15, 12, "real rows after the first of the last window")


@dataclass(frozen=True, slots=True, kw_only=True)
class AluInit(Instruction):
    """Settings of the ALUs that follow: pooling, depthwise convolutions, activations."""

    MNEMONIC: ClassVar[str] = "ALUINIT"
    OPCODE: ClassVar[int] = 0x1
    WORDS: ClassVar[int] = 6
    ENGINE: ClassVar[Engine] = Engine.MISC

    exec_mode: int = bits(0, 19, 16, "0 depthwise convolution, 2 average, 3 maximum, 4 leaky ReLU")
    act_type: int = bits(3, 21, 18, "as in CONVINIT")
    shift_cut: int = bits(3, 11, 6, "depthwise: as in CONVINIT; pooling: left shift, 8 + n for n to the right")
    shift_bias: int = bits(3, 17, 12, "as in CONVINIT")
    shift_prelu_p: int = bits(3, 27, 22, "shift of values of 0 and more, 32 + n for n to the right")
    shift_prelu_n: int = bits(3, 5, 0, "shift of values below 0")
    multi_factor: int = bits(4, 30, 23, "factor of an average, or of values below 0")
    kernel_h: int = bits(0, 15, 8, "rows of the window", minus_one=True)
    kernel_w: int = bits(0, 7, 0, "columns of the window", minus_one=True)
    stride_h: int = bits(1, 31, 24, "rows from window to window", minus_one=True)
    stride_w: int = bits(1, 23, 16, "columns from window to window", minus_one=True)
    length: int = bits(2, 10, 0, "output columns", minus_one=True)
    channel_group: int = bits(2, 23, 16, "words of a pixel", minus_one=True)
    channel_offset: int = bits(2, 15, 11, "channels of the last word that do not count")
    jump_read: int = bits(4, 22, 13, "words from column to column of the input", minus_one=True)
    jump_read_endl: int = bits(4, 12, 0, "words from row to row of the input in one bank", minus_one=True)
    jump_write: int = bits(5, 22, 13, "words from column to column of the output", minus_one=True)
    jump_write_endl: int = bits(5, 12, 0, "words from row to row of the output in one bank", minus_one=True)
    jump_read_weights: int = bits(5, 31, 23, "words from weight to weight")
    stride_out: int = bits(2, 31, 24, "output rows that share a bank", minus_one=True)
    stride_offset_in: int = bits(1, 15, 8, "rows of the first bank before the first input row")
    stride_offset_out: int = bits(1, 7, 0, "rows of the first bank before the first output row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alu(Instruction):
    """All channels of some rows of a pooling or a depthwise convolution."""

    MNEMONIC: ClassVar[str] = "ALU"
    OPCODE: ClassVar[int] = 0x2
    WORDS: ClassVar[int] = 5
    ENGINE: ClassVar[Engine] = Engine.MISC

    bank_id_in: int = bits(1, 19, 14, "bank of the first input row")
    bank_addr_in: int = bits(1, 13, 0, "word of the first input row")
    bank_addr_in_1: int = bits(2, 13, 0, "the same after one round through the banks")
    bank_addr_in_2: int = bits(3, 13, 0, "after two")
    bank_addr_in_3: int = bits(4, 13, 0, "after three")
    bank_id_out: int = bits(0, 19, 14, "bank of the first output row")
    bank_addr_out: int = bits(0, 13, 0, "word of the first output row")
    bank_addr_weights: int = bits(3, 27, 14, "first word of the weights")
    bank_addr_bias: int = bits(4, 27, 14, "first word of the biases")
    valid_pixel_parallel: int = bits(1, 22, 20, "output rows", minus_one=True)
    kernel_d: int = bits(3, 31, 28, "depth of the window", minus_one=True)
    pad_left: int = bits(2, 25, 22, "columns of padding on the left")
    pad_top: int = bits(2, 29, 26, "rows of padding on top")
    pad_right: int = bits(2, 21, 14, "real columns after the first of the last window")
    pad_bottom: int = bits(1, 30, 23, "real rows after the first of the last window")


@dataclass(frozen=True, slots=True, kw_only=True)
class ElewInit(Instruction):
    """One operand of the next ELEW."""

    MNEMONIC: ClassVar[str] = "ELEWINIT"
    OPCODE: ClassVar[int] = 0xD
    WORDS: ClassVar[int] = 3
    ENGINE: ClassVar[Engine] = Engine.MISC

    id: int = bits(1, 28, 27, "number of the operand")
    bank_id_in: int = bits(0, 19, 14, "bank of its first row")
    bank_addr_in: int = bits(1, 13, 0, "word of its first row")
    jump_bank: int = bits(1, 31, 29, "banks from row to row", minus_one=True)
    jump_read: int = bits(2, 11, 0, "words from column to column")
    jump_read_endl: int = bits(1, 26, 14, "words added after one round through the banks", minus_one=True)
    shift_read: int = bits(2, 15, 12, "its fix position minus the smallest of the operands")
    share_pp: int = bits(0, 13, 13, "all rows come from one bank")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elew(Instruction):
    """The sum or the product of up to four operands."""

    MNEMONIC: ClassVar[str] = "ELEW"
    OPCODE: ClassVar[int] = 0xE
    WORDS: ClassVar[int] = 3
    ENGINE: ClassVar[Engine] = Engine.MISC

    elew_type: int = bits(0, 13, 12, "0 sum, 1 product")
    act_type: int = bits(0, 11, 11, "1 ReLU")
    num: int = bits(1, 28, 27, "operands", minus_one=True)
    length: int = bits(0, 10, 0, "columns", minus_one=True)
    channel_group: int = bits(2, 24, 17, "words of a pixel", minus_one=True)
    valid_pixel_parallel: int = bits(1, 31, 29, "rows", minus_one=True)
    bank_id_out: int = bits(0, 19, 14, "bank of the first output row")
    bank_addr_out: int = bits(1, 13, 0, "word of the first output row")
    jump_write: int = bits(2, 11, 0, "words from column to column", minus_one=True)
    jump_write_endl: int = bits(1, 26, 14, "words added after one round through the banks", minus_one=True)
    shift_write: int = bits(2, 16, 12, "left shift of the result, 16 + n for n to the right")


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Instruction):
    """The last instruction: wait for all SAVEs and stop."""

    MNEMONIC: ClassVar[str] = "END"
    OPCODE: ClassVar[int] = 0x7
    WORDS: ClassVar[int] = 1
    ENGINE: ClassVar[Engine] = Engine.SAVE


#: Opcode -> the instruction. 0x6, 0xA, 0xB and 0xC (pooling and depthwise engines of other DPUs) occur in no file.
INSTRUCTIONS: Mapping[int, type[Instruction]] = MappingProxyType(
    {kind.OPCODE: kind for kind in (Load, Save, ConvInit, Conv, AluInit, Alu, ElewInit, Elew, End)}
)
