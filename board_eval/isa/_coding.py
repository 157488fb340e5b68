"""Between instructions and the 32-bit little-endian words of a program."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgesearch.board_eval.isa._field import FieldSpec, Instruction
from edgesearch.board_eval.isa._instructions import INSTRUCTIONS, End
from edgesearch.errors import InstructionError

__all__ = ["decode", "encode"]


def encode(program: Iterable[Instruction]) -> bytes:
    """The bytes of a program. Raises InstructionError for a value that its field does not hold."""
    words: list[int] = []
    for position, instruction in enumerate(program):
        layout = _layout(instruction.OPCODE)
        here = [0] * instruction.WORDS
        here[0] = instruction.OPCODE << 28
        for value, (word, low, smallest, largest) in zip(layout.values(instruction), layout.places, strict=True):
            if not smallest <= value <= largest:
                raise _does_not_fit(position, instruction, layout)
            here[word] |= value - smallest << low
        words += here
    return np.array(words, "<u4").tobytes()


def decode(code: bytes) -> tuple[Instruction, ...]:
    """The instructions of a program that ends with END.

    Raises InstructionError, naming the offset, for an unknown opcode, bits that no field names, and code that is cut off.
    """
    return tuple(_decoded(code))


def _decoded(code: bytes) -> Iterator[Instruction]:
    if len(code) % 4:
        raise InstructionError(f"the code has {len(code)} bytes, expected words of 4: the file was cut off")
    words: list[int] = np.frombuffer(code, "<u4").tolist()
    at, last = 0, None
    while at < len(words):
        kind = INSTRUCTIONS.get(words[at] >> 28)
        if kind is None:
            raise InstructionError(
                f"the code has opcode 0x{words[at] >> 28:X} at byte {4 * at}, which ISA 1 of the DPUCZDX8G does not have"
            )
        if at + kind.WORDS > len(words):
            raise InstructionError(f"the code ends within the {kind.MNEMONIC} at byte {4 * at}: the file was cut off")
        layout = _layout(kind.OPCODE)
        for word, unnamed in enumerate(layout.unnamed):
            if words[at + word] & unnamed:
                raise InstructionError(
                    f"the {kind.MNEMONIC} at byte {4 * at} has bits 0x{words[at + word] & unnamed:08X} in word {word}, "
                    "which ISA 1 of the DPUCZDX8G does not use"
                )
        last = kind(
            **{
                name: (words[at + word] >> low & largest - smallest) + smallest
                for name, (word, low, smallest, largest) in zip(layout.names, layout.places, strict=True)
            }
        )
        yield last
        at += kind.WORDS
    if not isinstance(last, End):
        raise InstructionError(f"the code of {len(code)} bytes does not end with END: the file was cut off")


@dataclass(frozen=True, slots=True)
class _Layout:
    names: tuple[str, ...]
    #: (word, lowest bit, smallest value, largest value) of every field.
    places: tuple[tuple[int, int, int, int], ...]
    values: Callable[[Any], tuple[int, ...]]
    #: Bits of every word that belong to no field.
    unnamed: tuple[int, ...]


@cache
def _layout(opcode: int) -> _Layout:
    kind = INSTRUCTIONS[opcode]
    fields = kind.fields()
    names = tuple(field.name for field in fields)
    used = [0] * kind.WORDS
    used[0] = 0xF << 28
    for field in fields:
        used[field.word] |= _mask(field)
    places = tuple((field.word, field.low, field.smallest, field.largest) for field in fields)
    unnamed = tuple(~mask & 0xFFFF_FFFF for mask in used)
    return _Layout(names, places, operator.attrgetter(*names), unnamed)


def _mask(field: FieldSpec) -> int:
    return field.largest - field.smallest << field.low


def _does_not_fit(position: int, instruction: Instruction, layout: _Layout) -> InstructionError:
    for name, value, (_, _, smallest, largest) in zip(layout.names, layout.values(instruction), layout.places, strict=True):
        if not smallest <= value <= largest:
            return InstructionError(
                f"instruction {position} ({instruction.MNEMONIC}) has {name} = {value}, expected {smallest}..{largest}"
            )
    raise AssertionError
