"""Pairs of instructions that some change of a program no longer puts in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from edgesearch.board_eval.isa import Engine, Instruction
from edgesearch.board_eval.machine._accesses import Access, find_access
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._steps import Step
from edgesearch.board_eval.machine._tokens import Clock, Timeline

__all__ = ["Races"]


class Races:
    """Compares every pair of instructions by what they touch: slow and obvious, where the checker keeps one number per word."""

    def __init__(self, banks: Banks, program: Sequence[Step], timeline: Timeline) -> None:
        self._banks = banks
        self._steps = program
        self._timeline = timeline
        self._known: dict[int, Access] = {}

    def lost(self, program: Sequence[Instruction], order: Sequence[int]) -> bool:
        """Whether a changed program lacks an order that matters. `order`: where its instructions are in the original."""
        timeline = Timeline.of(program)
        new = dict(zip(order, timeline.before, strict=True))
        if None in new.values():
            return True
        queues = [[order[position] for position in positions] for positions in timeline.positions]
        return any(
            self._conflict(position, earlier)
            for position, old in enumerate(self._timeline.before)
            for earlier in self._no_longer_before(queues, cast(Clock, old), cast(Clock, new[position]))
        )

    def _no_longer_before(self, queues: Sequence[Sequence[int]], old: Clock, new: Clock) -> Iterator[int]:
        for engine, positions in zip(Engine, self._timeline.positions, strict=True):
            # The queues differ in at most two neighbours, so that all before them is in both.
            tail = max(0, min(old[engine], new[engine]) - 2)
            yield from set(positions[tail : old[engine]]).difference(queues[engine][max(0, tail - 2) : new[engine]])

    def _conflict(self, one: int, other: int) -> bool:
        first, second = self._access(one), self._access(other)
        for mine, theirs in ((first, second), (second, first)):
            touched = np.concatenate([theirs.read, theirs.read_parameters, theirs.written])
            if np.isin(mine.written, touched).any():
                return True
            bytes_touched = np.concatenate([theirs.read_bytes, theirs.written_bytes])
            if mine.register == theirs.register and np.isin(mine.written_bytes, bytes_touched).any():
                return True
        return False

    def _access(self, position: int) -> Access:
        if position not in self._known:
            self._known[position] = find_access(self._banks, self._steps[position])
        return self._known[position]
