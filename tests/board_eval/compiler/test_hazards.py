from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._hazards import LONG, conflicts, most_tokens, with_tokens
from edgesearch.board_eval.compiler._step import Step, Stream, Timed
from edgesearch.board_eval.isa import Conv, ConvInit, End, Engine, Instruction, Load

from ._steps import TARGET, before, colliding, lane_edges, programs


def edges_of(waits: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    return [(other, number) for number, others in enumerate(waits) for other in others]


@given(programs)
@settings(deadline=None, max_examples=80)
def test_waits_and_the_order_of_streams_order_every_pair_that_collides(steps: list[Step]) -> None:
    streams = [step.stream for step in steps]
    waits = conflicts(steps, TARGET)
    known = before(len(steps), lane_edges(streams) + edges_of(waits))
    assert all(a in known[b] for a, b in colliding(steps))
    assert all(streams[other] != streams[number] for other, number in edges_of(waits))


@given(programs)
@settings(deadline=None, max_examples=60)
def test_no_wait_can_be_left_out(steps: list[Step]) -> None:
    streams = [step.stream for step in steps]
    edges = edges_of(conflicts(steps, TARGET))
    pairs = colliding(steps)
    for edge in edges:
        known = before(len(steps), lane_edges(streams) + [other for other in edges if other != edge])
        assert any(a not in known[b] for a, b in pairs), edge


@given(programs)
@settings(deadline=None, max_examples=50)
def test_the_end_waits_for_everything(steps: list[Step]) -> None:
    program = with_tokens(one_by_one(steps))
    known = before(len(program), lane_edges([one.ENGINE for one in program]) + token_edges(program))
    working = {number for number, one in enumerate(program[:-1]) if not isinstance(one, ConvInit)}
    assert working <= known[-1]


# -- tokens


def one_by_one(steps: list[Step]) -> list[Timed]:
    steps = [*steps, Step(End(), Stream.SAVE, 1)]
    waits = conflicts(steps, TARGET)
    return [Timed(step, 100.0 * n, 100.0 * n + 100, wait) for n, (step, wait) in enumerate(zip(steps, waits, strict=True))]


def token_edges(program: Sequence[Instruction]) -> list[tuple[int, int]]:
    """(giver, taker) of every token: those of a pair of engines are taken in the order in which they are given."""
    waiting: dict[tuple[Engine, Engine], deque[int]] = {(a, b): deque() for a in Engine for b in Engine if a != b}
    out = []
    for number, one in enumerate(program):
        own = one.ENGINE
        for other in Engine:
            if other != own and one.takes(other):
                out.append((waiting[other, own].popleft(), number))
        for other in Engine:
            if other != own and one.gives(other):
                waiting[own, other].append(number)
    assert not any(waiting.values())  # as many are taken as given
    return out


@given(programs, st.sampled_from([math.inf, LONG, LONG / 4, 0.0]))
@settings(deadline=None, max_examples=80)
def test_tokens_add_up_and_order_every_pair_that_collides(steps: list[Step], long: float) -> None:
    timed = one_by_one(steps)
    program = with_tokens(timed, long=long)
    own = [one.ENGINE for one in program]
    assert all(one.dpdon & one.dpdby & 1 << one.ENGINE for one in program)
    edges = token_edges(program)
    known = before(len(program), lane_edges(own) + edges)
    assert all(a in known[b] for a, b in colliding([one.step for one in timed]))
    assert not any(isinstance(program[giver], ConvInit) for giver, _ in edges)


@given(programs)
@settings(deadline=None, max_examples=50)
def test_hardly_any_token_waits_when_steps_wait_for_what_has_just_ended(steps: list[Step]) -> None:
    assert most_tokens(with_tokens(one_by_one(steps), long=0.0)) <= 2


def test_tokens_are_counted_in_the_order_of_the_code() -> None:
    load, conv = 1 << Engine.LOAD, 1 << Engine.CONV
    gives = Load(dpdon=load, dpdby=load | conv)
    takes = Conv(dpdon=load | conv, dpdby=conv)
    assert most_tokens([gives, gives, takes, gives, takes, takes]) == 2
    assert most_tokens([gives, takes] * 5) == 1
    assert most_tokens([]) == 0
