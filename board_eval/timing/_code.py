"""How long the instructions of a program take, and the program: the same costs as those of the model's own schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, Engine, Instruction, Load, Save
from edgesearch.board_eval.targets import Target, TimingConstants
from edgesearch.board_eval.timing._emission import QUEUE_DEPTH

__all__ = ["code_cycles", "run_code"]


def code_cycles(program: Sequence[Instruction], constants: TimingConstants, target: Target) -> list[float]:
    """Cycles that each instruction occupies its engine. Settings cost nothing."""
    c, lanes = constants, target.input_parallel
    taps = window = 1
    out: list[float] = []
    for one in program:
        cycles = 0.0
        match one:
            case Load():
                words = one.length * -(-one.channel // lanes)
                cycles = c.load + max(c.load_word * words, one.length * one.channel / c.load_bytes_per_cycle)
            case Save():
                cycles = c.save + c.save_word * one.length * -(-one.channel // lanes)
            case ConvInit():
                taps = one.kernel_h * one.kernel_w
            case Conv():
                cycles = c.conv + one.length * one.channel_group * taps
            case AluInit():
                window = one.kernel_h * one.kernel_w * one.length * one.channel_group
            case Alu():
                cycles = c.alu + c.alu_step * window
            case Elew():
                cycles = c.elew + c.elew_step * one.length * one.channel_group * one.num
            case _:
                pass
        out.append(cycles)
    return out


def run_code(program: Sequence[Instruction], cycles: Sequence[float], *, depth: int = QUEUE_DEPTH) -> list[float]:
    """When each instruction ends, in cycles, issued in the order of the code into queues of `depth` instructions each."""
    free = [0.0] * len(Engine)
    starts: list[list[float]] = [[] for _ in Engine]
    tokens: dict[tuple[int, int], deque[float]] = {(a, b): deque() for a in Engine for b in Engine if a != b}
    ends: list[float] = []
    issued = 0.0
    for one, cost in zip(program, cycles, strict=True):
        engine = one.ENGINE
        if len(starts[engine]) >= depth:
            issued = max(issued, starts[engine][-depth])
        start = max(free[engine], issued)
        for other in Engine:
            if one.takes(other):
                start = max(start, tokens[other, engine].popleft())
        end = free[engine] = start + cost
        starts[engine].append(start)
        ends.append(end)
        for other in Engine:
            if one.gives(other):
                tokens[engine, other].append(end)
    return ends
