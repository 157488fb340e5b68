"""Which words of the banks and which bytes of external memory every instruction reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, Conv, Elew, Instruction, Load, Save
from edgesearch.board_eval.machine._alu import DEPTHWISE, bias_words, depthwise_words
from edgesearch.board_eval.machine._banks import Banks, Words, spread
from edgesearch.board_eval.machine._convolution import weight_words
from edgesearch.board_eval.machine._elementwise import operand_words, result_words
from edgesearch.board_eval.machine._limits import InstructionLimits
from edgesearch.board_eval.machine._steps import Step, steps
from edgesearch.board_eval.machine._transfers import BROADCAST, load_mask
from edgesearch.board_eval.machine._windows import Rows, Window
from edgesearch.board_eval.targets import Target
from edgesearch.errors import InstructionError

__all__ = ["Access", "accesses", "find_access", "window_words"]

_NOTHING: Words = np.empty(0, np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """What one instruction touches. Words are numbered over all banks, `bank * bank_words + word`; some come twice.

    What cannot reach a result is no read: padding, bytes that LOAD masks, rows and columns between the windows of a kernel that
    is smaller than its stride.
    """

    position: int
    #: Words of feature maps, or what a SAVE reads.
    read: Words = field(default_factory=lambda: _NOTHING)
    #: Words of weights and biases.
    read_parameters: Words = field(default_factory=lambda: _NOTHING)
    written: Words = field(default_factory=lambda: _NOTHING)
    #: Register of the external memory that is read or written, -1: none; and the bytes in it.
    register: int = -1
    read_bytes: Words = field(default_factory=lambda: _NOTHING)
    written_bytes: Words = field(default_factory=lambda: _NOTHING)


def accesses(program: Iterable[Instruction], target: Target) -> Iterator[Access]:
    """What every instruction touches, in program order.

    Raises InstructionError for what the DPU does not have; registers are taken to be large enough.
    """
    banks = Banks.of(target)
    limits = InstructionLimits(target, dict.fromkeys(range(8), 1 << 31))
    for step in steps(program):
        for broken in limits.broken_by(step):
            raise InstructionError(f"instruction {step.position} ({step.instruction.MNEMONIC}) {broken}")
        yield find_access(banks, step)


def find_access(banks: Banks, step: Step) -> Access:
    """What an instruction within the limits touches."""
    match step.instruction:
        case Load() as load:
            return _load(banks, step.position, load)
        case Save() as save:
            return _save(banks, step.position, save)
        case Conv() as conv:
            init = step.conv_init
            bias = banks.piece(banks.biases, conv.bank_addr_bias, 1, 1, 1)
            return Access(
                position=step.position,
                read=window_words(banks, Window.of_conv(init, conv)).reshape(-1),
                read_parameters=np.concatenate([weight_words(banks, init, conv).reshape(-1), bias]),
                written=Rows.of_conv(init, conv).words(banks).reshape(-1),
            )
        case Alu() as alu:
            settings = step.alu_init
            parameters = _NOTHING
            if settings.exec_mode == DEPTHWISE:
                parameters = np.concatenate([depthwise_words(banks, settings, alu), bias_words(banks, settings, alu)])
            return Access(
                position=step.position,
                read=window_words(banks, Window.of_alu(settings, alu)).reshape(-1),
                read_parameters=parameters,
                written=Rows.of_alu(settings, alu).words(banks).reshape(-1),
            )
        case Elew() as elew:
            return Access(
                position=step.position,
                read=np.concatenate([operand_words(banks, operand, elew).reshape(-1) for operand in step.operands]),
                written=result_words(banks, elew).reshape(-1),
            )
    return Access(step.position)


def window_words(banks: Banks, window: Window) -> Words:
    """Words that some window meets: (rows, columns, group)."""
    words = window.words(banks)
    real_rows, real_columns = window.real_rows, window.real_columns
    if window.kernel[0] < window.stride[0]:
        words = words[np.arange(real_rows.start, real_rows.stop) % window.stride[0] < window.kernel[0]]
    if window.kernel[1] < window.stride[1]:
        words = words[:, np.arange(real_columns.start, real_columns.stop) % window.stride[1] < window.kernel[1]]
    return words


def _load(banks: Banks, position: int, load: Load) -> Access:
    words = banks.words(load.channel)
    written = banks.piece(load.bank_id, load.bank_addr, load.length, load.jump_write, words)
    if load.broadcast == BROADCAST:
        return Access(position, written=written)
    read = _bytes(load.ddr_addr, load.length, load.jump_read, load.channel)
    mask = load_mask(banks, load)
    if mask is not None:
        read = read[~mask.reshape(-1)]
    return Access(position, written=written, register=load.reg_id, read_bytes=read)


def _save(banks: Banks, position: int, save: Save) -> Access:
    words = banks.words(save.channel)
    return Access(
        position,
        read=banks.piece(save.bank_id, save.bank_addr, save.length, save.jump_read, words),
        register=save.reg_id,
        written_bytes=_bytes(save.ddr_addr, save.length, save.jump_write, save.channel),
    )


def _bytes(start: int, length: int, jump: int, channel: int) -> npt.NDArray[np.intp]:
    return start + spread(length, jump, channel)
