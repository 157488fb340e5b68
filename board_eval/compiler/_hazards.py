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
from edgesearch.board_eval.compiler._step import Memory, Step, Timed
from edgesearch.board_eval.isa import AluInit, ConvInit, ElewInit, End, Engine, Instruction
from edgesearch.board_eval.targets import Target

__all__ = ["LONG", "bank_count", "conflicts", "most_tokens", "with_tokens"]

#: Bytes of external memory that are guarded together.
_CELL = 64
#: Cycles after which an instruction has long ended: that much later than predicted, it would still hold nobody up.
LONG = 2000.0


def bank_count(target: Target) -> int:
    """Banks of feature maps, convolution weights, depthwise weights and biases."""
    return target.feature_groups * target.pixel_parallel + target.output_parallel + 2


class _Touched:
    """The last step of every lane that read, and that wrote, each word and each cell of memory; -1 for none."""

    def __init__(self, target: Target, lanes: int) -> None:
        self.lanes = lanes
        self.depth = target.bank_words
        shape = (lanes, bank_count(target), target.bank_words)
        self.reads = np.full(shape, -1, np.int32)
        self.writes = np.full(shape, -1, np.int32)
        self.cell_reads: dict[int, npt.NDArray[np.int32]] = {}
        self.cell_writes: dict[int, npt.NDArray[np.int32]] = {}

    def before(self, step: Step) -> list[int]:
        """Per lane, the last step that this one must not pass."""
        found = np.full(self.lanes, -1, np.int32)
        for span in step.reads:
            for piece in self._pieces(span):
                np.maximum(found, self.writes[piece].max(axis=(1, 2)), out=found)
        for span in step.writes:
            for piece in self._pieces(span):
                np.maximum(found, self.writes[piece].max(axis=(1, 2)), out=found)
                np.maximum(found, self.reads[piece].max(axis=(1, 2)), out=found)
        for memory, others in (
            (step.reads_memory, (self.cell_writes,)),
            (step.writes_memory, (self.cell_writes, self.cell_reads)),
        ):
            if memory is not None:
                for cells in others:
                    known = self._cells(cells, memory)
                    np.maximum(found, known.max(axis=1), out=found)
        numbers: list[int] = found.tolist()
        return numbers

    def mark(self, number: int, lane: int, step: Step) -> None:
        """Note what step `number` touches."""
        for span in step.reads:
            for _, banks, words in self._pieces(span):
                self.reads[lane, banks, words] = number
        for span in step.writes:
            for _, banks, words in self._pieces(span):
                self.writes[lane, banks, words] = number
        if step.reads_memory is not None:
            self._cells(self.cell_reads, step.reads_memory)[lane] = number
        if step.writes_memory is not None:
            self._cells(self.cell_writes, step.writes_memory)[lane] = number

    def _pieces(self, span: Span) -> Iterator[tuple[slice, slice, slice]]:
        banks = slice(span.bank, span.bank + span.banks)
        stop = span.start + span.words
        yield slice(None), banks, slice(span.start, min(stop, self.depth))
        if stop > self.depth:
            yield slice(None), banks, slice(0, min(stop - self.depth, self.depth))

    def _cells(self, cells: dict[int, npt.NDArray[np.int32]], memory: Memory) -> npt.NDArray[np.int32]:
        first, stop = memory.start // _CELL, -(-memory.stop // _CELL)
        known = cells.get(memory.register)
        if known is None or known.shape[1] < stop:
            grown = np.full((self.lanes, max(stop, 2 * (0 if known is None else known.shape[1]))), -1, np.int32)
            if known is not None:
                grown[:, : known.shape[1]] = known
            known = cells[memory.register] = grown
        return known[:, first:stop]


def conflicts(
    steps: Sequence[Step], lane_of: Sequence[int], target: Target, *, later: Callable[[int, int], int] = lambda other, _: other
) -> list[tuple[int, ...]]:
    """Per step, the steps on other lanes that it must wait for: none that follows from another, or from the order of its lane.

    END waits for all. `lane_of` says which of the lanes, each worked through in order, a step belongs to: engines, or finer.
    `later(a, b)` is what b shall wait for instead of a: a, or a later step of its lane that stands before b.
    """
    lanes = max(lane_of, default=0) + 1
    touched = _Touched(target, lanes)
    none = [-1] * lanes
    #: Per step: the last step of every lane known to have ended when it ends.
    known: list[list[int]] = []
    last, working = [-1] * lanes, [-1] * lanes
    waits: list[tuple[int, ...]] = []
    for number, (step, lane) in enumerate(zip(steps, lane_of, strict=True)):
        ended = known[last[lane]] if last[lane] >= 0 else none
        needed: list[int] = []
        ends = isinstance(step.instruction, End)
        if ends or step.reads or step.writes or step.reads_memory or step.writes_memory:
            before = working if ends else touched.before(step)
            for other in sorted(range(lanes), key=before.__getitem__, reverse=True):
                if other != lane and before[other] > ended[other]:
                    chosen = later(before[other], number)
                    needed.append(chosen)
                    ended = list(map(max, ended, known[chosen]))
            touched.mark(number, lane, step)
            working[lane] = number
        ended = list(ended)
        ended[lane] = number
        known.append(ended)
        last[lane] = number
        waits.append(tuple(needed))
    return waits


def with_tokens(steps: Sequence[Timed], target: Target, *, long: float = LONG) -> list[Instruction]:
    """The instructions of a program, with the tokens that its hazards ask for.

    What waits for an instruction waits for the last one of its engine that has ended `long` cycles before: one token of the
    last weights of a layer does for all of them. Every instruction has the bits of its own engine set, as in all files.
    """
    engines = [timed.step.stream.engine for timed in steps]
    queues: dict[Engine, list[int]] = {engine: [] for engine in Engine}
    for number, timed in enumerate(steps):
        if not isinstance(timed.step.instruction, ConvInit | AluInit | ElewInit):
            queues[engines[number]].append(number)
    ends = {engine: [steps[number].end for number in queue] for engine, queue in queues.items()}

    def later(other: int, number: int) -> int:
        engine = engines[other]
        long_ended = bisect_right(ends[engine], steps[number].start - long)
        before = min(long_ended, bisect_left(queues[engine], number)) - 1
        return max(other, queues[engine][before]) if before >= 0 else other

    takes = [1 << engine for engine in engines]
    gives = [1 << engine for engine in engines]
    for number, waits in enumerate(conflicts([timed.step for timed in steps], engines, target, later=later)):
        for other in waits:
            takes[number] |= 1 << engines[other]
            gives[other] |= 1 << engines[number]
    return [
        dataclasses.replace(timed.step.instruction, dpdon=take, dpdby=give)
        for timed, take, give in zip(steps, takes, gives, strict=True)
    ]


def most_tokens(program: Sequence[Instruction]) -> int:
    """The largest number of tokens between two engines that wait at one time, counted in the order of the code."""
    waiting = dict.fromkeys(itertools.permutations(Engine, 2), 0)
    most = 0
    for one in program:
        for other in Engine:
            if one.takes(other):
                waiting[other, one.ENGINE] -= 1
            if one.gives(other):
                waiting[one.ENGINE, other] += 1
                most = max(most, waiting[one.ENGINE, other])
    return most
