"""The whole way: a quantized Graph, legal, placed, written, ordered, with tokens, encoded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgesearch.board_eval.compiler._envelope import check_features, unseen
from edgesearch.board_eval.compiler._hazards import LONG, most_tokens, with_tokens
from edgesearch.board_eval.compiler._kernels import check_padding
from edgesearch.board_eval.compiler._legal import legal
from edgesearch.board_eval.compiler._pairs import in_pairs
from edgesearch.board_eval.compiler._plan import Plan
from edgesearch.board_eval.compiler._search import Scheduled, best_schedule
from edgesearch.board_eval.compiler._step import Step, Stream, Timed
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.isa import MAX_TOKENS, End, Instruction, encode
from edgesearch.board_eval.targets import DEFAULT_BOARD, BoardProfile, Target, TimingConstants, load_profile
from edgesearch.board_eval.timing import LayeredCode, Timing, check_fits, input_pixels, kind_of_network, time_code
from edgesearch.errors import CompileError, GraphError

__all__ = ["CODE_VERSION", "Compiled", "Options", "compile_graph"]

#: Raised by one whenever other code is written. 1: maps that a strided 1 x 1 convolution reads beside others were saved and
#: loaded; x + conv(x) could be wrong code.
CODE_VERSION = 2


@dataclass(frozen=True)
class Compiled:
    """What a board needs to run a network, and how it came about."""

    target: Target
    source: Graph
    plan: Plan
    program: tuple[Instruction, ...]
    #: The layer of the plan that each instruction belongs to; END has the number behind the last.
    layer_of: tuple[int, ...]
    parameters: bytes
    #: (node of the plan's graph, "weights" or "bias") -> address in the parameters.
    constants: dict[tuple[str, str], int]

    @property
    def unseen(self) -> tuple[str, ...]:
        """What of the program no file has that was measured on a board."""
        return unseen(self.program)

    @property
    def code(self) -> bytes:
        """The encoded program."""
        return encode(self.program)

    def time(self, profile: BoardProfile, *, runner: str | None = None, layers: bool = True) -> Timing:
        """Latency and throughput of this very code on a board with this DPU; parameters as those of `time_graph`."""
        found = tuple(plan.layer for plan in self.plan.layers)
        code = LayeredCode(self.source.name, self.program, self.layer_of, found, kind_of_network(self.source))
        return time_code(code, profile, pixels=input_pixels(self.source), runner=runner, layers=layers)


@dataclass(frozen=True)
class Options:
    """How a network is compiled."""

    #: Of `FEATURES`: "relu6" and "leaky_relu" as activations of an instruction, which no file has that was measured on a board
    #: (without the first, ReLU6 is computed in other ways), and "save_pairs", SAVEs on both memory ports at a time.
    allow: frozenset[str] = frozenset()
    #: Refuse values, too, that no such file has: sizes of kernels, shifts.
    strict: bool = False
    #: Other schedules that are tried, of which the fastest is taken.
    tries: int = 0
    #: The most that this may take; what is found depends on the machine's speed then.
    seconds: float | None = None

    def __post_init__(self) -> None:
        is_count = isinstance(self.tries, int) and self.tries >= 0
        if not is_count or not (self.seconds is None or (isinstance(self.seconds, int | float) and self.seconds >= 0)):
            raise CompileError(f"tries is {self.tries!r} and seconds {self.seconds!r}; expected numbers of at least 0")


def compile_graph(
    graph: Graph, target: Target, options: Options | None = None, *, constants: TimingConstants | None = None
) -> Compiled:
    """Compile a quantized Graph, or one without weights and fix positions, whose code can be timed but not run.

    `constants` tell how long instructions take, which decides their order (None: those of a ZCU104). Raises CompileError naming
    the layer that cannot be placed or encoded.
    """
    options = options or Options()
    constants = constants or load_profile(DEFAULT_BOARD).constants
    check_fits(graph, target)
    check_features(graph, options.allow)
    check_padding(graph)
    with _without_collection():
        ready = legal(graph, target, relu6="relu6" in options.allow)
        best = best_schedule(ready, target, constants, tries=options.tries, seconds=options.seconds)
        return finished(graph, target, best, options)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No search for cycles of garbage meanwhile: a program is very many small objects without any, and looking through them
    again and again takes much of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def finished(graph: Graph, target: Target, schedule: Scheduled, options: Options) -> Compiled:
    """A schedule with its tokens. Raises CompileError for what options do not allow, GraphError where there are no layers."""
    plan, code, end = schedule.plan, schedule.code, schedule.cycles
    if not plan.layers:
        raise GraphError(f"network {graph.name!r} has no layers: its result is the image itself; nothing is left for the DPU")
    timed = [*schedule.steps, Timed(Step(End(), Stream.SAVE, len(plan.layers)), end, end)]
    program = _with_few_tokens(timed)
    if "save_pairs" in options.allow:
        program = in_pairs(program)
    layer_of = tuple(one.step.layer for one in timed)
    if options.strict and (found := unseen(program)):
        raise CompileError(
            f"network {graph.name!r} takes instructions that no measured file has: {', '.join(found)}; leave out strict"
        )
    return Compiled(target, graph, plan, tuple(program), layer_of, code.parameters.content(), code.parameters.addresses)


def _with_few_tokens(steps: list[Timed]) -> list[Instruction]:
    """The program with its tokens, the fewer at a time the less is left for a time that was predicted too short."""
    program: list[Instruction] = []
    for long in (LONG, LONG / 4, 0.0):
        program = with_tokens(steps, long=long)
        if most_tokens(program) <= MAX_TOKENS:
            break
    return program
