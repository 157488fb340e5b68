"""What a checker finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Fault", "FaultKind"]


class FaultKind(StrEnum):
    """What is wrong."""

    #: A field, an address or a register that the DPU does not have or that nobody knows.
    LIMIT = "limit"
    #: A token is missing or left over, or taken before it is given in program order.
    TOKENS = "tokens"
    #: More tokens wait at a time than is safe: a warning, AMD's files have up to 131.
    QUEUE = "queue"
    #: Bits for the order on the own engine.
    OWN_BITS = "own bits"
    #: Engines wait for each other for ever.
    DEADLOCK = "deadlock"
    #: Two instructions touch a place, one of them writes, and nothing says which comes first.
    ORDER = "order"
    #: A read of something that nobody wrote.
    UNWRITTEN = "unwritten"
    #: Words that nobody reads: a waste of time, not of results.
    UNUSED = "unused"
    #: A write into a register of constants.
    CONSTANT = "constant"
    #: How the program ends.
    END = "end"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the position of the instruction in the program, the kind, and a sentence."""

    position: int
    kind: FaultKind
    sentence: str

    def __str__(self) -> str:
        return self.sentence
