"""The instructions of a compiled xmodel, as far as their time goes: engine, work, and whom the semaphores make them wait for.

Word layout and token rule: DPUCZDX8G, ISA 1, as compiled files show them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgesearch.board_eval.targets import TimingConstants
from edgesearch.board_eval.timing._instructions import Engine
from edgesearch.board_eval.xmodel._wire import attribute, graph_message

#: Opcode -> name, engine, words.
_CODES = {
    0x0: ("LOAD", Engine.LOAD, 5), 0x4: ("SAVE", Engine.SAVE, 5), 0x7: ("END", Engine.SAVE, 1),
    0x9: ("CONVINIT", Engine.CONV, 4), 0x8: ("CONV", Engine.CONV, 5), 0x1: ("ALUINIT", Engine.MISC, 6),
    0x2: ("ALU", Engine.MISC, 5), 0xD: ("ELEWINIT", Engine.MISC, 3), 0xE: ("ELEW", Engine.MISC, 3),
}  # fmt: skip
#: Channels of one word on chip, B4096.
_LANES = 16


@dataclass
class Instruction:
    """One instruction: `bytes` and `words` of a transfer, `cycles` of arithmetic, and the positions that it waits for."""

    name: str
    engine: Engine
    takes: int
    gives: int
    bytes: int = 0
    words: int = 0
    cycles: int = 0
    after: list[int] = field(default_factory=list)

    def cost(self, c: TimingConstants) -> float:
        """Cycles on its engine."""
        if self.name == "LOAD":
            return c.load + max(c.load_word * self.words, self.bytes / c.load_bytes_per_cycle)
        if self.name == "SAVE":
            return c.save + c.save_word * self.words
        issue, step = {"CONV": (c.conv, 1.0), "ALU": (c.alu, c.alu_step), "ELEW": (c.elew, c.elew_step)}.get(self.name, (0, 0))
        return issue + step * self.cycles


def read_program(path: Path) -> list[Instruction]:
    """The program of the one DPU subgraph of a compiled xmodel."""
    program = list(_decoded(_code(path)))
    tokens: dict[tuple[int, int], deque[int]] = {(a, b): deque() for a in Engine for b in Engine if a != b}
    for position, instruction in enumerate(program):
        own = instruction.engine
        for other in Engine:
            if other != own and instruction.takes >> other & 1:
                instruction.after.append(tokens[other, own].popleft())
        for other in Engine:
            if other != own and instruction.gives >> other & 1:
                tokens[own, other].append(position)
    assert not any(tokens.values())  # every token that is put is taken
    return program


def replay(program: list[Instruction], constants: TimingConstants, depth: int) -> float:
    """Cycles of a program whose code is issued in its order, into queues that take `depth` instructions each."""
    free = [0.0] * len(Engine)
    starts: list[list[float]] = [[] for _ in Engine]
    ends: list[float] = []
    issued = 0.0
    for instruction in program:
        engine = instruction.engine
        if len(starts[engine]) >= depth:
            issued = max(issued, starts[engine][-depth])
        start = max(free[engine], issued, *(ends[other] for other in instruction.after))
        starts[engine].append(start)
        ends.append(start + instruction.cost(constants))
        free[engine] = ends[-1]
    return max(ends)


def _code(path: Path) -> bytes:
    graph = graph_message()()
    graph.ParseFromString(path.read_bytes())
    found: list[bytes] = []
    parts = [graph.subg_root]
    while parts:
        part = parts.pop()
        if "mc_code" in part.subg_attr:
            found.append(attribute(part.subg_attr["mc_code"]))
        parts += part.subg_child
    (code,) = found
    return code


def _decoded(code: bytes) -> Iterator[Instruction]:
    words = struct.unpack(f"<{len(code) // 4}I", code)
    at, conv_window, alu_steps = 0, 1, 1
    while at < len(words):
        name, engine, length = _CODES[words[at] >> 28]
        w = words[at : at + length]
        at += length
        instruction = Instruction(name, engine, takes=_bits(w[0], 27, 24), gives=_bits(w[0], 23, 20))
        if name in ("LOAD", "SAVE"):
            pieces = _bits(w[2], 9, 0) + 1
            channels = _bits(w[2], 23 if name == "LOAD" else 21, 10) + 1
            instruction.bytes, instruction.words = pieces * channels, pieces * -(-channels // _LANES)
        elif name == "CONVINIT":
            conv_window = (_bits(w[2], 27, 24) + 1) * (_bits(w[3], 27, 24) + 1)
        elif name == "CONV":
            instruction.cycles = (_bits(w[2], 31, 22) + 1) * (_bits(w[1], 31, 24) + 1) * conv_window
        elif name == "ALUINIT":
            kernel = (_bits(w[0], 7, 0) + 1) * (_bits(w[0], 15, 8) + 1)
            alu_steps = kernel * (_bits(w[2], 10, 0) + 1) * (_bits(w[2], 23, 16) + 1)
        elif name == "ALU":
            instruction.cycles = alu_steps
        elif name == "ELEW":
            instruction.cycles = (_bits(w[0], 10, 0) + 1) * (_bits(w[2], 24, 17) + 1) * (_bits(w[1], 28, 27) + 1)
        yield instruction


def _bits(word: int, high: int, low: int) -> int:
    return word >> low & (1 << high - low + 1) - 1
