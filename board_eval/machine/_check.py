"""Checks a program without executing it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from edgesearch.board_eval.isa import MAX_TOKENS, Instruction, Save
from edgesearch.board_eval.machine._accesses import find_access
from edgesearch.board_eval.machine._banks import Banks
from edgesearch.board_eval.machine._faults import Fault, FaultKind
from edgesearch.board_eval.machine._hazards import Hazards
from edgesearch.board_eval.machine._limits import InstructionLimits
from edgesearch.board_eval.machine._steps import Step, steps
from edgesearch.board_eval.machine._tokens import Timeline, token_faults
from edgesearch.board_eval.machine._waste import Waste
from edgesearch.board_eval.targets import Target

__all__ = ["check"]


def check(
    program: Iterable[Instruction],
    target: Target,
    registers: Mapping[int, int],
    *,
    constants: Collection[int] = (),
    inputs: Collection[int] = (),
    max_tokens: int | None = MAX_TOKENS,
    unused: bool = False,
) -> tuple[Fault, ...]:
    """Every fault of a program, by position; () for one that every DPU of this size executes in the same way.

    `registers`: number -> bytes. All bytes of `constants`, which must not be written, and of `inputs` are there from the
    beginning. `max_tokens` is how many tokens may wait between two engines, counted in program order; None: any number.
    `unused`: also tell of words in banks that are written and never read.
    """
    program = tuple(program)
    timeline = Timeline.of(program)
    found = list(token_faults(program, max_tokens))
    found += timeline.deadlock(program)
    found += timeline.end_faults(program)
    limits = InstructionLimits(target, registers)
    changed = {number: size for number, size in registers.items() if number not in constants}
    banks = Banks.of(target)
    waste = Waste(banks)
    hazards = Hazards(banks, program, timeline, changed, frozenset(inputs))
    # Whatever breaks a limit touches nobody knows what, and so does what it sets.
    unknown: set[Instruction] = set()
    for step in steps(program):
        broken = [_fault(step, FaultKind.LIMIT, sentence) for sentence in limits.broken_by(step)]
        if isinstance(step.instruction, Save) and step.instruction.reg_id in constants:
            sentence = f"writes register {step.instruction.reg_id}, which holds constants"
            broken.append(_fault(step, FaultKind.CONSTANT, sentence))
        found += broken
        if broken:
            unknown.add(step.instruction)
        elif unknown.isdisjoint(step.inits):
            access = find_access(banks, step)
            found += hazards.faults(step, access)
            waste.note(access)
    if unused:
        found += waste.faults(program)
    return tuple(sorted(found, key=lambda fault: fault.position))


def _fault(step: Step, kind: FaultKind, sentence: str) -> Fault:
    return Fault(step.position, kind, f"instruction {step.position} ({step.instruction.MNEMONIC}) {sentence}")
