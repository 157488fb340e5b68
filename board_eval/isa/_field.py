"""What instructions are made of: engines, and fields of bits with a meaning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

__all__ = ["Engine", "FieldSpec", "Instruction", "bits"]


class Engine(IntEnum):
    """The four engines; each works through its own instructions in order. The value is its bit in `dpdon` and `dpdby`."""

    LOAD = 0
    SAVE = 1
    CONV = 2
    MISC = 3


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """Where a field lies: bits `high` to `low` of 32-bit word `word`, stored minus one where `minus_one`."""

    name: str
    word: int
    high: int
    low: int
    minus_one: bool
    meaning: str

    @property
    def smallest(self) -> int:
        """The smallest value that it holds."""
        return int(self.minus_one)

    @property
    def largest(self) -> int:
        """The largest value that it holds."""
        return (1 << self.high - self.low + 1) - 1 + int(self.minus_one)


def bits(word: int, high: int, low: int, meaning: str, *, minus_one: bool = False) -> Any:
    """A field of an instruction; its default is the value of which the stored bits are zero."""
    where = {"word": word, "high": high, "low": low, "minus_one": minus_one, "meaning": meaning}
    return dataclasses.field(default=int(minus_one), metadata=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction. Bit b of `dpdon`: take a token of engine b before the start; of `dpdby`: give one to it at the end.

    The bit of its own engine stands for its order behind the instruction before it.
    """

    MNEMONIC: ClassVar[str]
    OPCODE: ClassVar[int]
    WORDS: ClassVar[int]
    ENGINE: ClassVar[Engine]

    dpdon: int = bits(0, 27, 24, "engines that it waits for")
    dpdby: int = bits(0, 23, 20, "engines that it gives a token to")

    @classmethod
    def fields(cls) -> tuple[FieldSpec, ...]:
        """Its fields, in the order of their declaration."""
        known = _FIELDS.get(cls)
        if known is None:
            known = _FIELDS[cls] = tuple(FieldSpec(field.name, **field.metadata) for field in dataclasses.fields(cls))
        return known

    def takes(self, engine: Engine) -> bool:
        """Whether it waits for a token of another engine."""
        return engine is not self.ENGINE and bool(self.dpdon >> engine & 1)

    def gives(self, engine: Engine) -> bool:
        """Whether it gives a token to another engine."""
        return engine is not self.ENGINE and bool(self.dpdby >> engine & 1)


#: Fields of the classes that were asked for them: disassembling asks once per instruction.
_FIELDS: dict[type[Instruction], tuple[FieldSpec, ...]] = {}
