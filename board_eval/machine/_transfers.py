"""LOAD and SAVE: between external memory and the banks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from edgesearch.board_eval.isa import Load, Save
from edgesearch.board_eval.machine._banks import Banks

__all__ = ["BROADCAST", "load", "load_mask", "pieces", "save"]

Registers = Mapping[int, npt.NDArray[np.int8]]

#: Value of LOAD's `broadcast` that writes a constant.
BROADCAST = 7


def pieces(memory: npt.NDArray[np.generic], start: int, length: int, jump: int, channel: int) -> npt.NDArray[np.generic]:
    """A view of `length` pieces of `channel` bytes: (length, channel). They must lie inside; they may overlap."""
    (step,) = memory.strides
    return as_strided(memory[start:], (length, channel), (jump * step, step))


def load_mask(banks: Banks, load: Load) -> npt.NDArray[np.bool_] | None:
    """True for bytes that `pad_start` and `pad_end` replace by zeros, (length, channel); None where there are none.

    Pieces overlap: each begins `jump_read` bytes behind the one before, so that as many bytes fewer of it lie before the row,
    and as many more behind it.
    """
    if not load.pad_start and not load.pad_end:
        return None
    piece = np.arange(load.length)[:, None]
    byte = np.arange(load.channel)
    mask = byte < load.pad_start - piece * load.jump_read
    if load.pad_end:
        last = load.length - load.pad_idx
        mask |= byte >= banks.words(load.channel) * banks.lanes - load.pad_end + (last - piece) * load.jump_read
    return mask


def load(banks: Banks, memory: npt.NDArray[np.int8], registers: Registers, instruction: Load) -> None:
    """Pieces of external memory into a bank; the rest of each piece's last word becomes 0."""
    channel, length = instruction.channel, instruction.length
    words = banks.words(channel)
    source: npt.NDArray[np.generic]
    if instruction.broadcast == BROADCAST:
        source = np.full((length, channel), instruction.const_value, np.uint8).view(np.int8)
    else:
        source = pieces(registers[instruction.reg_id], instruction.ddr_addr, length, instruction.jump_read, channel)
    values = np.zeros((length, words * banks.lanes), np.int8)
    values[:, :channel] = source
    mask = load_mask(banks, instruction)
    if mask is not None:
        values[:, :channel][mask] = 0
    places = banks.piece(instruction.bank_id, instruction.bank_addr, length, instruction.jump_write, words)
    memory[places] = values.reshape(-1, banks.lanes)


def save(banks: Banks, memory: npt.NDArray[np.int8], registers: Registers, instruction: Save) -> None:
    """Pieces of a bank into external memory."""
    channel, length = instruction.channel, instruction.length
    words = banks.words(channel)
    places = banks.piece(instruction.bank_id, instruction.bank_addr, length, instruction.jump_read, words)
    values = memory.take(places, axis=0).reshape(length, words * banks.lanes)[:, :channel]
    register = registers[instruction.reg_id]
    if instruction.jump_write >= channel:
        pieces(register, instruction.ddr_addr, length, instruction.jump_write, channel)[...] = values
        return
    for number, value in enumerate(values):  # Pieces overlap: later ones stay.
        at = instruction.ddr_addr + number * instruction.jump_write
        register[at : at + channel] = value
