from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from edgesearch.board_eval.isa import Conv, Instruction, decode, encode
from edgesearch.board_eval.machine import check, mutations, simulate
from edgesearch.errors import InstructionError

from ._small import CONSTANT, INPUT, SIZES, TARGET, small_program, small_registers

PROGRAM = small_program()
COUNT = 600


def seen_by_checker(program: tuple[Instruction, ...]) -> bool:
    return bool(check(program, TARGET, SIZES, constants=[CONSTANT], inputs=[INPUT], unused=True))


def seen_by_simulator(program: tuple[Instruction, ...]) -> bool:
    for seed in range(3):
        registers = small_registers(seed)
        before = simulate(PROGRAM, TARGET, registers)
        try:
            after = simulate(program, TARGET, registers)
        except InstructionError:
            return True
        if any(not np.array_equal(before[number], after[number]) for number in before):
            return True
    return False


def test_the_same_seed_gives_the_same_mutations() -> None:
    first, again, other = (list(islice(mutations(PROGRAM, TARGET, seed), 30)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nearly_all_mutations_are_found() -> None:
    kinds: Counter[str] = Counter()
    missed = []
    for mutation in islice(mutations(PROGRAM, TARGET, 0), COUNT):
        assert mutation.program != PROGRAM
        kinds[mutation.kind] += 1
        if not seen_by_checker(mutation.program) and not seen_by_simulator(mutation.program):
            missed.append(mutation.sentence)
    assert len(missed) <= COUNT // 100, missed
    assert len(kinds) >= 7
    assert min(kinds.values()) >= 5


@pytest.mark.parametrize("seed", range(20))
def test_a_mutation_is_a_program_that_can_be_written(seed: int) -> None:
    (mutation,) = islice(mutations(PROGRAM, TARGET, seed), 1)
    assert decode(encode(mutation.program)) == mutation.program
    assert 0 <= mutation.position < len(PROGRAM)
    assert str(mutation.position) in mutation.sentence


def test_fields_without_an_effect_are_left_alone() -> None:
    """One output row of one kernel row: the lines of its banks, which would matter with more, never change alone."""
    conv = next(position for position, instruction in enumerate(PROGRAM) if isinstance(instruction, Conv))
    for mutation in islice(mutations(PROGRAM, TARGET, 3), 300):
        changed = [name for name in ("jump_read_endl", "jump_write_endl", "bank_addr_in_1") if name in mutation.sentence]
        assert not (changed and mutation.position in (conv - 1, conv)), mutation.sentence
