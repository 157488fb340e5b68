"""Programs with one fault: what a checker and a simulator are measured by.

A mutation changes what the program does or what it waits for. Fields without an effect (a jump between rows where there is one,
a shift that the mode does not use) are left alone, and so are tokens that say nothing new.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgesearch.board_eval.isa import (
    Alu,
    AluInit,
    Conv,
    ConvInit,
    Elew,
    ElewInit,
    End,
    Engine,
    Instruction,
    Load,
    Save,
)
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._effects import effect
from edgesearch.board_eval.machine._limits import InstructionLimits
from edgesearch.board_eval.machine._races import Races
from edgesearch.board_eval.machine._steps import steps
from edgesearch.board_eval.machine._tokens import Timeline
from edgesearch.board_eval.targets import Target

__all__ = ["Mutation", "mutations"]

#: Fields that say where something lies.
_ADDRESSES = {
    Load: ("bank_id", "bank_addr", "reg_id", "ddr_addr"),
    Save: ("bank_id", "bank_addr", "reg_id", "ddr_addr"),
    Conv: (
        *("bank_id_in", "bank_addr_in", "bank_addr_in_1", "bank_addr_in_2", "bank_addr_in_3"),
        *("bank_id_out", "bank_addr_out", "bank_addr_weights", "bank_addr_bias"),
    ),
    Alu: (
        *("bank_id_in", "bank_addr_in", "bank_addr_in_1", "bank_addr_in_2", "bank_addr_in_3"),
        *("bank_id_out", "bank_addr_out", "bank_addr_weights", "bank_addr_bias"),
    ),
    ElewInit: ("bank_id_in", "bank_addr_in"),
    Elew: ("bank_id_out", "bank_addr_out"),
}

#: Fields that say how much and how. A smaller `channel_offset` is missing: it lets in lanes whose weights are zeros.
_SETTINGS = {
    Load: ("jump_write", "jump_read", "length", "channel", "pad_start", "pad_end", "broadcast"),
    Save: ("jump_read", "jump_write", "length", "channel"),
    ConvInit: (
        *("act_type", "shift_cut", "shift_bias", "kernel_h", "kernel_w", "stride_h", "stride_w", "valid_pixel_parallel"),
        *("jump_read", "jump_read_endl", "jump_write", "jump_write_endl"),
        *("stride_out", "stride_offset_in", "stride_offset_out"),
    ),
    Conv: ("length", "channel_group", "pad_left", "pad_top", "pad_right", "pad_bottom"),
    AluInit: (
        *("exec_mode", "act_type", "shift_cut", "shift_bias", "multi_factor", "kernel_h", "kernel_w", "stride_h", "stride_w"),
        *("length", "channel_group", "jump_read", "jump_read_endl", "jump_read_weights", "jump_write", "jump_write_endl"),
        *("stride_out", "stride_offset_in", "stride_offset_out"),
    ),
    Alu: ("valid_pixel_parallel", "pad_left", "pad_top", "pad_right", "pad_bottom"),
    ElewInit: ("id", "jump_bank", "jump_read", "jump_read_endl", "shift_read"),
    Elew: (
        *("elew_type", "act_type", "num", "length", "channel_group", "valid_pixel_parallel"),
        *("jump_write", "jump_write_endl", "shift_write"),
    ),
}

_SETTERS = (ConvInit, AluInit, ElewInit)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A program with one fault, and where and what it is."""

    position: int
    kind: str
    sentence: str
    program: tuple[Instruction, ...]


def mutations(program: Sequence[Instruction], target: Target, seed: int) -> Iterator[Mutation]:
    """Endless; the same ones for the same seed. `program` should have no faults."""
    mutator = _Mutator(tuple(program), target, random.Random(seed))
    makers = (
        mutator.dropped_bit,
        mutator.dropped_token,
        mutator.early_token,
        mutator.late_wait,
        mutator.swapped,
        mutator.dropped_instruction,
        mutator.changed_address,
        mutator.changed_address,
        mutator.changed_setting,
        mutator.changed_setting,
    )
    while True:
        found = mutator.random.choice(makers)()
        if found is not None:
            yield found


class _Mutator:
    def __init__(self, program: tuple[Instruction, ...], target: Target, source: random.Random) -> None:
        self.random = source
        self._program = program
        self._banks = Banks.of(target)
        self._limits = InstructionLimits(target, dict.fromkeys(range(8), 1 << 31))
        self._steps = tuple(steps(program))
        self._timeline = Timeline.of(program)
        self._races = Races(self._banks, self._steps, self._timeline)
        self._edges = tuple(_edges(program))

    def dropped_bit(self) -> Mutation | None:
        """One bit of dpdon or dpdby is missing."""
        position = self.random.randrange(len(self._program))
        field = self.random.choice(("dpdon", "dpdby"))
        value = getattr(self._program[position], field)
        bits = [bit for bit in Engine if value >> bit & 1]
        if not bits:
            return None
        bit = self.random.choice(bits)
        return self._changed(position, "dropped bit", **{field: value & ~(1 << bit)})

    def dropped_token(self) -> Mutation | None:
        """A token is neither given nor taken."""
        giver, taker = self.random.choice(self._edges)
        given, taken = self._program[giver], self._program[taker]
        program = self._with(giver, dpdby=given.dpdby & ~(1 << taken.ENGINE))
        program = _with(program, taker, dpdon=taken.dpdon & ~(1 << given.ENGINE))
        sentence = f"the token of {_name(giver, given)} for {_name(taker, taken)} is missing"
        return self._if_unordered(Mutation(taker, "dropped token", sentence, program))

    def early_token(self) -> Mutation | None:
        """A token is given by the instruction before the one that should."""
        giver, taker = self.random.choice(self._edges)
        return self._moved(giver, self._program[taker].ENGINE, "dpdby", -1)

    def late_wait(self) -> Mutation | None:
        """A token is taken by the instruction behind the one that should."""
        giver, taker = self.random.choice(self._edges)
        return self._moved(taker, self._program[giver].ENGINE, "dpdon", 1)

    def swapped(self) -> Mutation | None:
        """Two neighbours on one engine in the wrong order, each with its own tokens."""
        position = self.random.randrange(len(self._program))
        other = self._neighbour(position, 1)
        if other is None or self._program[position] == self._program[other]:
            return None
        order = list(range(len(self._program)))
        order[position], order[other] = other, position
        program = tuple(self._program[place] for place in order)
        sentence = f"{_name(position, self._program[position])} and {_name(other, self._program[other])} are swapped"
        mutation = Mutation(position, "swapped", sentence, program)
        changed = isinstance(self._program[position], _SETTERS) or isinstance(self._program[other], _SETTERS)
        return mutation if changed or self._races.lost(program, order) else None

    def dropped_instruction(self) -> Mutation | None:
        """An instruction is missing; the one before it on its engine gives its tokens, the one behind it takes them."""
        position = self.random.randrange(len(self._program))
        gone = self._program[position]
        before, behind = self._neighbour(position, -1), self._neighbour(position, 1)
        if isinstance(gone, End) or before is None or behind is None or isinstance(gone, Save):
            return None
        earlier, later = self._program[before], self._program[behind]
        own = 1 << gone.ENGINE
        if earlier.dpdby & gone.dpdby & ~own or later.dpdon & gone.dpdon & ~own:
            return None
        program = _with(self._with(before, dpdby=earlier.dpdby | gone.dpdby), behind, dpdon=later.dpdon | gone.dpdon)
        found = (*program[:position], *program[position + 1 :])
        return self._if_different(Mutation(position, "dropped instruction", f"{_name(position, gone)} is missing", found))

    def changed_address(self) -> Mutation | None:
        """Something lies elsewhere."""
        return self._changed_field("changed address", _ADDRESSES)

    def changed_setting(self) -> Mutation | None:
        """Something is done otherwise."""
        return self._changed_field("changed setting", _SETTINGS)

    def _changed_field(self, kind: str, table: dict[type[Instruction], tuple[str, ...]]) -> Mutation | None:
        wanted = self.random.choice(tuple(table))
        places = [number for number, instruction in enumerate(self._program) if isinstance(instruction, wanted)]
        if not places:
            return None
        position = self.random.choice(places)
        instruction = self._program[position]
        name = self.random.choice(table[wanted])
        spec = next(spec for spec in instruction.fields() if spec.name == name)
        value = getattr(instruction, name)
        by = self.random.choice((-16, -2, -1, 1, 2, 16))
        if not spec.smallest <= value + by <= spec.largest:
            return None
        return self._if_different(self._changed(position, kind, **{name: value + by}))

    def _moved(self, position: int, bit: Engine, field: str, by: int) -> Mutation | None:
        other = self._neighbour(position, by)
        mask = 1 << bit
        if other is None or getattr(self._program[other], field) & mask:
            return None
        here, there = getattr(self._program[position], field), getattr(self._program[other], field)
        program = _with(self._with(position, **{field: here & ~mask}), other, **{field: there | mask})
        kind = "early token" if field == "dpdby" else "late wait"
        sentence = (
            f"the bit {bit.name} in {field} of {_name(position, self._program[position])} "
            f"is in {_name(other, self._program[other])}"
        )
        return self._if_unordered(Mutation(position, kind, sentence, program))

    def _neighbour(self, position: int, by: int) -> int | None:
        """The instruction behind (1) or before (-1) on the same engine."""
        on_engine = self._timeline.positions[self._program[position].ENGINE]
        place = self._timeline.number[position] - 1 + by
        return on_engine[place] if 0 <= place < len(on_engine) else None

    def _changed(self, position: int, kind: str, **values: int) -> Mutation:
        instruction = self._program[position]
        changes = ", ".join(f"{name} = {value} and not {getattr(instruction, name)}" for name, value in values.items())
        return Mutation(position, kind, f"{_name(position, instruction)} has {changes}", self._with(position, **values))

    def _with(self, position: int, **values: int) -> tuple[Instruction, ...]:
        return _with(self._program, position, **values)

    def _if_unordered(self, mutation: Mutation) -> Mutation | None:
        """Whether two instructions that touch one place, of which one writes, are no longer ordered."""
        return mutation if self._races.lost(mutation.program, range(len(mutation.program))) else None

    def _if_different(self, mutation: Mutation) -> Mutation | None:
        """Whether the instructions of some engine do something else than before."""
        shorter = len(mutation.program) < len(self._program)
        if shorter:
            return mutation
        for step, other in zip(self._steps, steps(mutation.program), strict=True):
            if step == other:
                continue
            if next(islice(self._limits.broken_by(other), 1), None) is not None:
                return mutation
            if effect(self._banks, step) != effect(self._banks, other):
                return mutation
        return None


def _edges(program: Sequence[Instruction]) -> Iterator[tuple[int, int]]:
    """Positions of the instruction that gives a token and of the one that takes it."""
    given: dict[tuple[Engine, Engine], list[int]] = {(a, b): [] for a in Engine for b in Engine}
    taken: dict[tuple[Engine, Engine], list[int]] = {(a, b): [] for a in Engine for b in Engine}
    for position, instruction in enumerate(program):
        for other in Engine:
            if instruction.takes(other):
                taken[other, instruction.ENGINE].append(position)
            if instruction.gives(other):
                given[instruction.ENGINE, other].append(position)
    for pair, positions in given.items():
        yield from zip(positions, taken[pair], strict=False)


def _with(program: tuple[Instruction, ...], position: int, **values: int) -> tuple[Instruction, ...]:
    changed = replace(program[position], **values)
    return (*program[:position], changed, *program[position + 1 :])


def _name(position: int, instruction: Instruction) -> str:
    return f"instruction {position} ({instruction.MNEMONIC})"
