"""What the compiler writes before tokens are known: instructions with what they touch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from edgesearch.board_eval.compiler._rows import Span
from edgesearch.board_eval.isa import Engine, Instruction

__all__ = ["Memory", "Step", "Stream", "Timed"]


class Stream(IntEnum):
    """Instructions that keep their order among each other. LOADs of parameters and of rows may pass one another."""

    ROWS = 0
    SAVE = 1
    CONV = 2
    MISC = 3
    PARAMETERS = 4

    @property
    def engine(self) -> Engine:
        """The engine that executes them."""
        return _ENGINES[self]


_ENGINES = (Engine.LOAD, Engine.SAVE, Engine.CONV, Engine.MISC, Engine.LOAD)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes `start` to `stop` of a register's memory; what lies between strided pieces counts too."""

    register: int
    start: int
    stop: int


@dataclass(slots=True)
class Step:
    """An instruction of a layer, and the words and bytes that it reads and writes. INITs touch nothing."""

    instruction: Instruction
    stream: Stream
    layer: int
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    reads_memory: Memory | None = None
    writes_memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """A step of a program, when it starts and ends, in cycles, and the positions in the program of those that it waits for."""

    step: Step
    start: float
    end: float
    waits: tuple[int, ...] = ()
