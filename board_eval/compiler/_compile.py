"""The whole way: a quantized Graph, legal, placed, written, ordered, with tokens, encoded."""

from __future__ import annotations

from dataclasses import dataclass

from edgesearch.board_eval.compiler._emission import write_code
from edgesearch.board_eval.compiler._hazards import with_tokens
from edgesearch.board_eval.compiler._legal import legal
from edgesearch.board_eval.compiler._order import in_order_of_start
from edgesearch.board_eval.compiler._placement import place
from edgesearch.board_eval.compiler._plan import Plan
from edgesearch.board_eval.compiler._step import Step, Stream
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.isa import End, Instruction, encode
from edgesearch.board_eval.targets import Target, TimingConstants
from edgesearch.board_eval.timing import code_cycles

__all__ = ["Compiled", "compile_graph"]


@dataclass(frozen=True)
class Compiled:
    """What a board needs to run a network, and how it came about."""

    target: Target
    source: Graph
    plan: Plan
    program: tuple[Instruction, ...]
    parameters: bytes
    #: (node of the plan's graph, "weights" or "bias") -> address in the parameters.
    constants: dict[tuple[str, str], int]

    @property
    def code(self) -> bytes:
        """The encoded program."""
        return encode(self.program)


def compile_graph(graph: Graph, target: Target, constants: TimingConstants) -> Compiled:
    """Compile a quantized Graph. `constants` tell how long instructions take, which decides their order."""
    plan = place(legal(graph, target), target)
    code = write_code(plan, target)
    cycles = code_cycles([step.instruction for step in code.steps], constants, target)
    steps = in_order_of_start(code.steps, cycles, target)
    steps.append(Step(End(), Stream.SAVE, len(plan.layers)))
    program = with_tokens(steps, target)
    return Compiled(target, graph, plan, tuple(program), code.parameters.content(), code.parameters.addresses)
