"""The semaphores of a program: whether they add up, and which instructions have ended before another begins.

One counting semaphore per ordered pair of engines. An instruction begins when it has taken its tokens and the one before it
on its engine has ended; at its end it gives tokens. Two SAVEs that share both memory ports run side by side: the first, on
port 0, has the bit of its own engine in `dpdon` only and takes the tokens of both; the second, on port 1, has it in `dpdby`
only and gives them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgesearch.board_eval.isa import End, Engine, Instruction, Save
from edgesearch.board_eval.machine._faults import Fault, FaultKind

__all__ = ["Clock", "Timeline", "token_faults"]

#: How many instructions of every engine have ended.
Clock = tuple[int, ...]

_BEGINNING: Clock = (0,) * len(Engine)


def token_faults(program: Sequence[Instruction], max_tokens: int | None) -> Iterator[Fault]:
    """Own bits, and tokens counted in program order."""
    yield from _own_bits(program)
    waiting = {(giver, taker): 0 for giver in Engine for taker in Engine}
    full = set()
    for position, instruction in enumerate(program):
        own = instruction.ENGINE
        for other in Engine:
            if instruction.takes(other):
                waiting[other, own] -= 1
                if waiting[other, own] < 0:
                    sentence = f"{_name(position, instruction)} takes a token of {other.name} that no earlier instruction gives"
                    yield Fault(position, FaultKind.TOKENS, sentence)
        for other in Engine:
            if instruction.gives(other):
                pair = (own, other)
                waiting[pair] += 1
                if max_tokens is not None and waiting[pair] > max_tokens and pair not in full:
                    full.add(pair)
                    sentence = (
                        f"more than {max_tokens} tokens of {own.name} wait for {other.name} at {_name(position, instruction)}"
                    )
                    yield Fault(position, FaultKind.QUEUE, sentence)
    for (giver, taker), count in waiting.items():
        if count:
            sentence = f"{abs(count)} tokens of {giver.name} for {taker.name} are {'never taken' if count > 0 else 'missing'}"
            yield Fault(len(program) - 1, FaultKind.TOKENS, sentence)


def _own_bits(program: Sequence[Instruction]) -> Iterator[Fault]:
    saves = [(position, i) for position, i in enumerate(program) if i.ENGINE is Engine.SAVE]
    second = {later for earlier, later in pairwise(saves) if _first_half(earlier[1]) and _second_half(later[1])}
    first = {earlier for earlier, later in pairwise(saves) if later in second}
    for position, instruction in enumerate(program):
        paired = (position, instruction) in first or (position, instruction) in second
        bit = 1 << instruction.ENGINE
        if not paired and not (instruction.dpdon & instruction.dpdby & bit):
            sentence = f"{_name(position, instruction)} lacks the bit of its own engine, and is no half of a pair of SAVEs"
            yield Fault(position, FaultKind.OWN_BITS, sentence)
        elif not paired and isinstance(instruction, Save) and instruction.hp_id:
            sentence = f"{_name(position, instruction)} uses port {instruction.hp_id} and is no half of a pair of SAVEs"
            yield Fault(position, FaultKind.OWN_BITS, sentence)


def _first_half(instruction: Instruction) -> bool:
    """A first half gives no tokens: whether its own would cover the second is not known."""
    if not isinstance(instruction, Save) or instruction.hp_id != 0:
        return False
    return bool(instruction.dpdon & 1 << Engine.SAVE) and instruction.dpdby == 0


def _second_half(instruction: Instruction) -> bool:
    if not isinstance(instruction, Save) or instruction.hp_id != 1:
        return False
    return bool(instruction.dpdby & 1 << Engine.SAVE) and instruction.dpdon == 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """What tokens and the order on every engine say of a program, whatever its instructions take."""

    #: Per instruction: how many of every engine have certainly ended when it begins; None: it never begins.
    before: tuple[Clock | None, ...]
    #: Per instruction: its number on its engine, from 1.
    number: tuple[int, ...]
    #: Per engine: positions of its instructions.
    positions: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, program: Sequence[Instruction]) -> Timeline:
        """Run the engines against each other, each in its order."""
        queues: list[list[int]] = [[] for _ in Engine]
        number = []
        for position, instruction in enumerate(program):
            queues[instruction.ENGINE].append(position)
            number.append(len(queues[instruction.ENGINE]))
        before: list[Clock | None] = [None] * len(program)
        engines = _Engines(program, queues, before)
        while any(engines.advance(engine) for engine in Engine):
            pass
        return cls(tuple(before), tuple(number), tuple(map(tuple, queues)))

    def deadlock(self, program: Sequence[Instruction]) -> Iterator[Fault]:
        """The first instruction of every engine that never begins."""
        for positions in self.positions:
            stuck = next((position for position in positions if self.before[position] is None), None)
            if stuck is not None:
                yield Fault(stuck, FaultKind.DEADLOCK, f"{_name(stuck, program[stuck])} waits for tokens for ever")

    def end_faults(self, program: Sequence[Instruction]) -> Iterator[Fault]:
        """The program ends with its one END, before which everything has ended."""
        last = len(program) - 1
        if not program or not isinstance(program[-1], End):
            yield Fault(max(last, 0), FaultKind.END, "the program does not end with END")
            return
        for position, instruction in enumerate(program[:-1]):
            if isinstance(instruction, End):
                yield Fault(position, FaultKind.END, f"{_name(position, instruction)} is not the last instruction")
        clock = self.before[last]
        if clock is None:
            return
        for engine, positions in zip(Engine, self.positions, strict=True):
            if clock[engine] < len(positions) - (engine is Engine.SAVE):
                open_ = positions[clock[engine]]
                sentence = f"END does not wait for {_name(open_, program[open_])}"
                yield Fault(open_, FaultKind.END, sentence)


class _Engines:
    def __init__(self, program: Sequence[Instruction], queues: Sequence[Sequence[int]], before: list[Clock | None]) -> None:
        self._program = program
        self._queues = queues
        self._before = before
        self._next = [0] * len(Engine)
        #: Of the last instruction of every engine: what had ended when it began, and what has when it has ended.
        self._began = [_BEGINNING] * len(Engine)
        self._ended = [_BEGINNING] * len(Engine)
        self._tokens: dict[tuple[Engine, Engine], deque[Clock]] = {(a, b): deque() for a in Engine for b in Engine}

    def advance(self, engine: Engine) -> bool:
        """Let an engine execute what it can; whether that was anything."""
        moved = False
        queue = self._queues[engine]
        while self._next[engine] < len(queue) and self._step(engine, queue[self._next[engine]]):
            self._next[engine] += 1
            moved = True
        return moved

    def _step(self, engine: Engine, position: int) -> bool:
        instruction = self._program[position]
        taken = [self._tokens[other, engine] for other in Engine if instruction.takes(other)]
        if not all(taken):
            return False
        waits = instruction.dpdon >> engine & 1
        # Without the bit it begins beside the one before it, which has begun; in-order engines do not begin it earlier.
        clock = self._ended[engine] if waits else self._began[engine]
        for queue in taken:
            clock = tuple(map(max, clock, queue.popleft()))
        self._before[position] = self._began[engine] = clock
        ended = list(map(max, clock, self._ended[engine]))
        ended[engine] = self._next[engine] + 1
        self._ended[engine] = tuple(ended)
        for other in Engine:
            if instruction.gives(other):
                self._tokens[engine, other].append(self._ended[engine])
        return True


def _name(position: int, instruction: Instruction) -> str:
    return f"instruction {position} ({instruction.MNEMONIC})"
