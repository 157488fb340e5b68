"""Words that are written and never read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgesearch.board_eval.isa import Instruction
from edgesearch.board_eval.machine._accesses import Access
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._faults import Fault, FaultKind

__all__ = ["Waste"]


class Waste:
    """Walks through a program in its order."""

    def __init__(self, banks: Banks) -> None:
        #: Of every word: position of the instruction that wrote it, -1 once it has been read.
        self._unread = np.full(banks.count * banks.depth, -1, np.int32)
        self._found: set[int] = set()

    def note(self, access: Access) -> None:
        """The next instruction."""
        self._unread[access.read] = -1
        self._unread[access.read_parameters] = -1
        if access.written.size:
            self._gather(self._unread.take(access.written))
            self._unread[access.written] = access.position

    def faults(self, program: Sequence[Instruction]) -> Iterator[Fault]:
        """Every instruction that wrote a word which was overwritten, or left at the end, unread."""
        self._gather(self._unread)
        for position in sorted(self._found):
            sentence = f"instruction {position} ({program[position].MNEMONIC}) writes words that nobody reads"
            yield Fault(position, FaultKind.UNUSED, sentence)

    def _gather(self, positions: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
        if positions.max() >= 0:
            self._found.update(np.unique(positions[positions >= 0]).tolist())
