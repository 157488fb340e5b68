"""A search over schedules: what is cut otherwise, and what goes to external memory, is kept where the code gets faster.

Every try is a whole program, timed with its own instructions; layers that take the most time come first.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgesearch.board_eval.compiler._code import Code
from edgesearch.board_eval.compiler._emission import write_code
from edgesearch.board_eval.compiler._order import in_order_of_start
from edgesearch.board_eval.compiler._placement import Choices, place
from edgesearch.board_eval.compiler._plan import Plan
from edgesearch.board_eval.compiler._sequence import independent
from edgesearch.board_eval.compiler._step import Timed
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import Target, TimingConstants
from edgesearch.board_eval.timing import code_cycles
from edgesearch.errors import CompileError

__all__ = ["Scheduled", "best_schedule", "moves_from", "scheduled"]

#: Cuts that are tried beyond the one a layer has.
_FURTHER = (1, 2, 4)


@dataclass(frozen=True)
class Scheduled:
    """A plan and its code in order of time."""

    plan: Plan
    code: Code
    steps: tuple[Timed, ...]

    @property
    def cycles(self) -> float:
        """When the last instruction ends."""
        return max((timed.end for timed in self.steps), default=0.0)


def scheduled(graph: Graph, target: Target, constants: TimingConstants, choices: Choices | None = None) -> Scheduled:
    """The code of a legal graph under some choices. Raises CompileError where it finds no place."""
    plan = place(graph, target, choices)
    code = write_code(plan, target)
    cycles = code_cycles([step.instruction for step in code.steps], constants, target)
    return Scheduled(plan, code, tuple(in_order_of_start(code.steps, cycles, target)))


def best_schedule(
    graph: Graph, target: Target, constants: TimingConstants, *, tries: int, seconds: float | None = None
) -> Scheduled:
    """The fastest of `tries` schedules beside the first. With `seconds`, what is found depends on how fast this machine is."""
    started = time.monotonic()
    choices = Choices()
    best = scheduled(graph, target, constants)
    refused: set[Choices] = set()
    improved = True
    while improved:
        improved = False
        for other in list(moves_from(best, choices)):
            if tries <= 0 or (seconds is not None and time.monotonic() - started > seconds):
                return best
            if other in refused:
                continue
            tries -= 1
            try:
                found = scheduled(graph, target, constants, other)
            except CompileError:
                found = None
            if found is not None and found.cycles < best.cycles:
                best, choices, improved = found, other, True
                break
            refused.add(other)
    return best


def moves_from(best: Scheduled, choices: Choices) -> Iterator[Choices]:
    """Choices that differ in one thing, for the layers that take the most time first."""
    time_of = [0.0] * (len(best.plan.layers) + 1)
    for timed in best.steps:
        time_of[timed.step.layer] += timed.end - timed.start
    for number in sorted(range(len(best.plan.layers)), key=lambda i: -time_of[i]):
        plan = best.plan.layers[number]
        passed = dict(choices.passed)
        for further in _FURTHER:
            name = plan.layer.name
            yield dataclasses.replace(choices, passed=tuple(sorted((passed | {name: passed.get(name, 0) + further}).items())))
        if plan.output.external is None and plan.output.name not in choices.outside:
            yield dataclasses.replace(choices, outside=choices.outside | {plan.output.name})
        if number and independent(best.plan.layers[number - 1].layer, plan.layer, best.plan.written_into):
            yield dataclasses.replace(choices, earlier=(*choices.earlier, plan.layer.name))
