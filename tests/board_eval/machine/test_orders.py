"""A program that the checker passes computes the same in every order that its tokens allow."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.isa import INSTRUCTIONS, Engine, Instruction
from edgesearch.board_eval.machine import FaultKind, check, simulate
from edgesearch.errors import InstructionError

from ._compiled import read_compiled
from ._small import CONSTANT, INPUT, OUTPUT, SIZES, TARGET, small_program, small_registers

PROGRAM = small_program()
ORDERS = tuple(itertools.permutations(Engine))


def in_order(program: Sequence[Instruction], engines: Sequence[Engine]) -> tuple[Instruction, ...]:
    """The instructions as they end when the first of `engines` that can go on always does."""
    queues = {engine: [i for i in program if i.ENGINE is engine] for engine in Engine}
    tokens: Counter[tuple[Engine, Engine]] = Counter()
    done: list[Instruction] = []
    while len(done) < len(program):
        for engine in engines:
            if queues[engine] and all(tokens[other, engine] for other in Engine if queues[engine][0].takes(other)):
                break
        instruction = queues[engine].pop(0)
        tokens.subtract((other, engine) for other in Engine if instruction.takes(other))
        tokens.update((engine, other) for other in Engine if instruction.gives(other))
        done.append(instruction)
    return tuple(done)


@pytest.mark.parametrize("engines", ORDERS)
def test_a_program_without_faults_computes_the_same_in_every_order(engines: Sequence[Engine]) -> None:
    registers = small_registers()
    expected = simulate(PROGRAM, TARGET, registers)
    np.testing.assert_array_equal(simulate(in_order(PROGRAM, engines), TARGET, registers)[OUTPUT], expected[OUTPUT])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SqueezeNet_ptq_zcu104", "ResNet50_095_zcu104"])
def test_so_do_amds_programs(reference_data: Path, name: str) -> None:
    compiled = read_compiled(reference_data / "compiled" / f"{name}.xmodel")
    orders = ORDERS[::5]
    programs = [in_order(compiled.program, engines) for engines in orders]
    assert len(set(programs)) > 2
    expected = simulate(compiled.program, compiled.target, compiled.registers(1))
    for program in programs:
        found = simulate(program, compiled.target, compiled.registers(1))
        for number, array in expected.items():
            np.testing.assert_array_equal(found[number], array)


@pytest.mark.parametrize("position", [p for p, i in enumerate(PROGRAM) if any(i.takes(engine) for engine in Engine)])
def test_an_order_that_is_missing_changes_results_in_some_order(position: int) -> None:
    """Each of the tokens is needed: the checker says so, and an order of engines shows it."""
    taken = PROGRAM[position]
    (giver,) = (engine for engine in Engine if taken.takes(engine))
    at = max(p for p, i in enumerate(PROGRAM[:position]) if i.ENGINE is giver and i.gives(taken.ENGINE))
    program = list(PROGRAM)
    program[position] = replace(taken, dpdon=taken.dpdon & ~(1 << giver))
    program[at] = replace(program[at], dpdby=program[at].dpdby & ~(1 << taken.ENGINE))
    assert FaultKind.ORDER in {fault.kind for fault in check(program, TARGET, SIZES, constants=[CONSTANT], inputs=[INPUT])}
    registers = small_registers()
    expected = simulate(PROGRAM, TARGET, registers)[OUTPUT].tobytes()
    results = {simulate(in_order(program, engines), TARGET, registers)[OUTPUT].tobytes() for engines in ORDERS}
    assert results - {expected}


@st.composite
def strange_programs(draw: st.DrawFn) -> tuple[Instruction, ...]:
    """One instruction with any values that its fields hold, many of them small."""
    position = draw(st.integers(0, len(PROGRAM) - 1))
    kind = type(PROGRAM[position]) if draw(st.booleans()) else draw(st.sampled_from(tuple(INSTRUCTIONS.values())))
    fields = {}
    for spec in kind.fields():
        small = min(spec.largest, spec.smallest + 5)
        fields[spec.name] = draw(st.one_of(st.integers(spec.smallest, small), st.integers(spec.smallest, spec.largest)))
    return (*PROGRAM[:position], kind(**fields), *PROGRAM[position + 1 :])


@settings(max_examples=200, deadline=None)
@given(strange_programs())
def test_no_program_breaks_the_checker_or_the_machine(program: tuple[Instruction, ...]) -> None:
    """What the machine refuses the checker finds, in the same words."""
    faults = check(program, TARGET, SIZES, constants=[CONSTANT], inputs=[INPUT])
    refused = ""
    try:
        simulate(program, TARGET, small_registers())
    except InstructionError as error:
        refused = str(error)
    assert refused in {"", *(str(fault) for fault in faults if fault.kind is FaultKind.LIMIT)}
