"""Whether every read and write comes in the order of the program, and after somebody wrote what is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Engine, Instruction
from edgesearch.board_eval.machine._accesses import Access
from edgesearch.board_eval.machine._banks import Banks, Words
from edgesearch.board_eval.machine._defined import Defined
from edgesearch.board_eval.machine._faults import Fault, FaultKind
from edgesearch.board_eval.machine._steps import Step
from edgesearch.board_eval.machine._tokens import Clock, Timeline

__all__ = ["Hazards"]

_BANK_WRITERS = (Engine.LOAD, Engine.CONV, Engine.MISC)
_BANK_READERS = (Engine.SAVE, Engine.CONV, Engine.MISC)


class _Places:
    """Of some memory: the number of the last instruction of each engine that wrote and that read every place; 0 for none."""

    def __init__(self, size: int, writers: Sequence[Engine], readers: Sequence[Engine]) -> None:
        self.writers = {engine: np.zeros(size, np.int32) for engine in writers}
        self.readers = {engine: np.zeros(size, np.int32) for engine in readers}

    def conflicts(self, engine: Engine, clock: Clock, read: Words, written: Words) -> Iterator[tuple[str, Engine, int, int]]:
        """What was done, by which engine, the number of its last such instruction, and one place that both touch."""
        for what, before, places in (
            ("writes", self.writers, read),
            ("writes", self.writers, written),
            ("reads", self.readers, written),
        ):
            if not places.size:
                continue
            for other, last in before.items():
                # On one engine the order is that of the program, but for the two halves of a pair of SAVEs.
                if other is engine and engine is not Engine.SAVE:
                    continue
                found = last.take(places)
                worst = int(found.argmax())
                if found[worst] > clock[other]:
                    yield what, other, int(found[worst]), int(places[worst])

    def note(self, engine: Engine, number: int, read: Words, written: Words) -> None:
        """An instruction has been executed."""
        if read.size:
            self.readers[engine][read] = number
        if written.size:
            self.writers[engine][written] = number


@dataclass(frozen=True, slots=True)
class _Register:
    places: _Places
    written: npt.NDArray[np.bool_]


class Hazards:
    """Walks through a program in its order; every instruction's conflicts with earlier ones are asked for once."""

    def __init__(
        self,
        banks: Banks,
        program: Sequence[Instruction],
        timeline: Timeline,
        changed: Mapping[int, int],
        inputs: frozenset[int],
    ) -> None:
        """`changed`: registers that the program may write, and their sizes; all of `inputs` is written before the start."""
        self._banks = banks
        self._program = program
        self._timeline = timeline
        self._words = _Places(banks.count * banks.depth, _BANK_WRITERS, _BANK_READERS)
        self._registers = {
            number: _Register(_Places(size, (Engine.SAVE,), (Engine.LOAD,)), np.full(size, number in inputs))
            for number, size in changed.items()
        }
        self._defined = Defined(banks)

    def faults(self, step: Step, access: Access) -> Iterator[Fault]:
        """What is wrong with one instruction."""
        clock = self._timeline.before[step.position]
        if clock is not None:
            yield from self._order(step, access, clock)
        sentence = self._defined.missing(step, access)
        if sentence:
            yield self._unwritten(step, sentence)
        register = self._registers.get(access.register)
        if register is not None:
            missing = access.read_bytes[~register.written[access.read_bytes]]
            if missing.size:
                yield self._unwritten(step, f"byte {int(missing[0])} of register {access.register}, which nobody wrote")
            register.written[access.written_bytes] = True

    def _order(self, step: Step, access: Access, clock: Clock) -> Iterator[Fault]:
        engine, number = step.instruction.ENGINE, self._timeline.number[step.position]
        read = access.read
        if access.read_parameters.size:
            read = np.concatenate([read, access.read_parameters])
        for what, other, found, place in self._words.conflicts(engine, clock, read, access.written):
            where = f"word {place % self._banks.depth} of bank {place // self._banks.depth}"
            yield self._conflict(step, what, other, found, where)
        self._words.note(engine, number, read, access.written)
        register = self._registers.get(access.register)
        if register is not None:
            places = register.places
            for what, other, found, place in places.conflicts(engine, clock, access.read_bytes, access.written_bytes):
                yield self._conflict(step, what, other, found, f"byte {place} of register {access.register}")
            places.note(engine, number, access.read_bytes, access.written_bytes)

    def _conflict(self, step: Step, what: str, other: Engine, number: int, where: str) -> Fault:
        position = self._timeline.positions[other][number - 1]
        sentence = (
            f"instruction {step.position} ({step.instruction.MNEMONIC}) does not wait for instruction {position} "
            f"({self._program[position].MNEMONIC}), which {what} {where}"
        )
        return Fault(step.position, FaultKind.ORDER, sentence)

    def _unwritten(self, step: Step, what: str) -> Fault:
        sentence = f"instruction {step.position} ({step.instruction.MNEMONIC}) reads {what}"
        return Fault(step.position, FaultKind.UNWRITTEN, sentence)
