from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._emission import write_code
from edgesearch.board_eval.compiler._hazards import conflicts, with_tokens
from edgesearch.board_eval.compiler._legal import legal
from edgesearch.board_eval.compiler._order import in_order_of_start
from edgesearch.board_eval.compiler._placement import place
from edgesearch.board_eval.compiler._step import Step, Stream, Timed
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.isa import Engine
from edgesearch.board_eval.targets import DPUS, load_profile
from edgesearch.board_eval.timing import code_cycles, run_code

from .._networks import residual_net
from ._running import random_network
from ._steps import TARGET, programs

CONSTANTS = load_profile("zcu104").constants
CYCLES = st.lists(st.integers(0, 50), min_size=18, max_size=18)


@given(programs, CYCLES)
@settings(deadline=None, max_examples=60)
def test_every_step_starts_once_behind_all_it_waits_for(steps: list[Step], cycles: list[int]) -> None:
    timed = in_order_of_start(steps, cycles, TARGET)
    number = {id(step): at for at, step in enumerate(steps)}
    order = [number[id(one.step)] for one in timed]
    assert sorted(order) == list(range(len(steps)))
    for stream in Stream:
        own = [at for at in order if steps[at].stream is stream]
        assert own == sorted(own)
    assert [one.start for one in timed] == sorted(one.start for one in timed)
    ends = {number[id(one.step)]: one.end for one in timed}
    free = dict.fromkeys(Engine, 0.0)
    seen: set[int] = set()
    waits = conflicts(steps, [step.stream for step in steps], TARGET)
    for one, at in zip(timed, order, strict=True):
        assert seen.issuperset(waits[at])
        assert one.start >= max([free[one.step.stream.engine], *(ends[other] for other in waits[at])])
        assert one.end == one.start + cycles[at]
        free[one.step.stream.engine] = one.end
        seen.add(at)


def run_time(steps: list[Timed] | list[Step], cycles: list[float]) -> float:
    """When the last one ends, engines working through the code in its order, tokens taken."""
    timed = [one if isinstance(one, Timed) else Timed(one, 0.0, 0.0) for one in steps]
    program = with_tokens(timed, DPUS["B4096"], long=math.inf)
    return max(run_code(program, cycles, depth=10**6)[0])


@pytest.mark.parametrize(
    "graph",
    [residual_net(32, (16, 40, 64)), residual_net(56, (64, 128, 200)), *(random_network(seed) for seed in range(25))],
    ids=lambda graph: graph.name,
)
def test_the_order_of_starts_is_not_slower_than_that_of_the_code(graph: Graph) -> None:
    target = DPUS["B4096"]
    steps = write_code(place(legal(graph, target), target), target).steps
    cycles = code_cycles([step.instruction for step in steps], CONSTANTS, target)
    timed = in_order_of_start(steps, cycles, target)
    of = {id(step): cost for step, cost in zip(steps, cycles, strict=True)}
    ordered = run_time(timed, [of[id(one.step)] for one in timed])
    assert ordered == pytest.approx(max(one.end for one in timed))
    assert ordered <= run_time(steps, cycles) * (1 + 1e-9)
