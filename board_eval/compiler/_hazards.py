"""Which instruction must wait for which: every read after a write, write after a read and write after a write, and no more.

The rule of the hardware (compiled files of AMD's compiler show it): one counter for every ordered pair of engines. An
instruction takes a token of each engine that it waits for and gives, at its end, one to each engine that waits for it. Engines
work in order, so tokens of one pair are taken in the order in which they were given.
"""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.compiler._rows import Span
from edgesearch.board_eval.compiler._step import Memory, Step, Stream, Timed
from edgesearch.board_eval.isa import AluInit, ConvInit, ElewInit, End, Engine, Instruction
from edgesearch.board_eval.machine import Banks
from edgesearch.board_eval.targets import Target

__all__ = ["LONG", "conflicts", "most_tokens", "with_tokens"]

_STREAMS = len(Stream)
#: Bytes of external memory that are guarded together.
_CELL = 64
#: Cycles after which an instruction has long ended: that much later than predicted, it would still hold nobody up.
LONG = 2000.0


class _Touched:
    """The last step of every stream that read, and that wrote, each word and each cell of memory; -1 for none.

    The first axis of all arrays: writers, then readers.
    """

    def __init__(self, target: Target) -> None:
        self.depth = target.bank_words
        self.words = np.full((2 * _STREAMS, Banks.of(target).count, target.bank_words), -1, np.int32)
        self.cells: dict[int, npt.NDArray[np.int32]] = {}

    def before(self, step: Step) -> list[int]:
        """Per stream, the last step that this one must not pass."""
        found = [self.words[(slice(0, _STREAMS), *piece)].max(axis=(1, 2)) for piece in self._pieces(step.reads)]
        both = [self.words[(slice(None), *piece)].max(axis=(1, 2)) for piece in self._pieces(step.writes)]
        if step.reads_memory is not None:
            found.append(self._cells(step.reads_memory)[:_STREAMS].max(axis=1))
        if step.writes_memory is not None:
            both.append(self._cells(step.writes_memory).max(axis=1))
        found += [half for pair in both for half in (pair[:_STREAMS], pair[_STREAMS:])]
        numbers: list[int] = np.max(found, axis=0).tolist()
        return numbers

    def mark(self, number: int, step: Step) -> None:
        """Note what step `number` touches."""
        for banks, words in self._pieces(step.reads):
            self.words[_STREAMS + step.stream, banks, words] = number
        for banks, words in self._pieces(step.writes):
            self.words[step.stream, banks, words] = number
        if step.reads_memory is not None:
            self._cells(step.reads_memory)[_STREAMS + step.stream] = number
        if step.writes_memory is not None:
            self._cells(step.writes_memory)[step.stream] = number

    def _pieces(self, spans: tuple[Span, ...]) -> Iterator[tuple[slice, slice]]:
        for span in spans:
            banks = slice(span.bank, span.bank + span.banks)
            stop = span.start + span.words
            yield banks, slice(span.start, min(stop, self.depth))
            if stop > self.depth:
                yield banks, slice(0, min(stop - self.depth, self.depth))

    def _cells(self, memory: Memory) -> npt.NDArray[np.int32]:
        first, stop = memory.start // _CELL, -(-memory.stop // _CELL)
        known = self.cells.get(memory.register)
        if known is None or known.shape[1] < stop:
            size = 0 if known is None else known.shape[1]
            grown = np.full((2 * _STREAMS, max(stop, 2 * size)), -1, np.int32)
            if known is not None:
                grown[:, :size] = known
            known = self.cells[memory.register] = grown
        return known[:, first:stop]


class _Known:
    """What has ended when a step does: per lane, its last step."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.last = [-1] * lanes
        self.at: list[list[int]] = []

    def needed(
        self, number: int, lane: int, before: Sequence[int], later: Callable[[int], int] = lambda other: other
    ) -> tuple[int, ...]:
        """Of the last steps of each lane in `before`, those that do not follow from another or from the lane's own order.

        `later(a)` is what shall be waited for instead of a: a, or a later step of its lane.
        """
        ended = self.at[self.last[lane]] if self.last[lane] >= 0 else [-1] * self.lanes
        needed: list[int] = []
        for other in sorted(range(self.lanes), key=before.__getitem__, reverse=True):
            if other != lane and before[other] > ended[other]:
                chosen = later(before[other])
                needed.append(chosen)
                ended = list(map(max, ended, self.at[chosen]))
        ended = list(ended)
        ended[lane] = number
        self.at.append(ended)
        self.last[lane] = number
        return tuple(needed)


def conflicts(steps: Sequence[Step], target: Target) -> list[tuple[int, ...]]:
    """Per step, those of other streams that it must wait for: none that follows from another, or from its stream's order."""
    touched, known = _Touched(target), _Known(_STREAMS)
    nothing = [-1] * _STREAMS
    waits: list[tuple[int, ...]] = []
    for number, step in enumerate(steps):
        touches = step.reads or step.writes or step.reads_memory or step.writes_memory
        waits.append(known.needed(number, step.stream, touched.before(step) if touches else nothing))
        if touches:
            touched.mark(number, step)
    return waits


def with_tokens(steps: Sequence[Timed], *, long: float = LONG) -> list[Instruction]:
    """The instructions of a program, with the tokens that its hazards ask for; END, the last, waits for all.

    What waits for an instruction waits for the last one of its engine that has ended `long` cycles before: one token of the
    last weights of a layer does for all of them. Every instruction has the bits of its own engine set, as in all files.
    """
    engines = [timed.step.stream.engine for timed in steps]
    queues: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    for number, timed in enumerate(steps):
        if not isinstance(timed.step.instruction, ConvInit | AluInit | ElewInit):
            queues[engines[number]].append(number)
    ends = {engine: [steps[number].end for number in queue] for engine, queue in queues.items()}
    takes = [1 << engine for engine in engines]
    gives = [1 << engine for engine in engines]
    known = _Known(len(Engine))
    for number, (timed, engine) in enumerate(zip(steps, engines, strict=True)):

        def later(other: int, number: int = number, start: float = timed.start) -> int:
            queue = queues[engines[other]]
            long_ended = bisect_right(ends[engines[other]], start - long)
            before = min(long_ended, bisect_left(queue, number)) - 1
            return max(other, queue[before]) if before >= 0 else other

        last = [-1] * len(Engine)
        if isinstance(timed.step.instruction, End):
            last = [queues[other][-1] if queues[other] else -1 for other in Engine]
        for other in timed.waits:
            last[engines[other]] = max(last[engines[other]], other)
        for other in known.needed(number, engine, last, later):
            takes[number] |= 1 << engines[other]
            gives[other] |= 1 << engine
    return [_with(timed.step.instruction, take, give) for timed, take, give in zip(steps, takes, gives, strict=True)]


def _with(instruction: Instruction, take: int, give: int) -> Instruction:
    if (instruction.dpdon, instruction.dpdby) == (take, give):
        return instruction
    return dataclasses.replace(instruction, dpdon=take, dpdby=give)


def most_tokens(program: Sequence[Instruction]) -> int:
    """The largest number of tokens between two engines that wait at one time, counted in the order of the code."""
    waiting = dict.fromkeys(itertools.permutations(Engine, 2), 0)
    most = 0
    for one in program:
        if one.dpdon == one.dpdby == 1 << one.ENGINE:
            continue
        for other in Engine:
            if one.takes(other):
                waiting[other, one.ENGINE] -= 1
            if one.gives(other):
                waiting[one.ENGINE, other] += 1
                most = max(most, waiting[one.ENGINE, other])
    return most
