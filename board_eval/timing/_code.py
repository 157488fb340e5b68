"""How long real code takes: its instructions at the costs of the model's own schedule, waiting by their tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.isa import Alu, AluInit, Conv, ConvInit, Elew, Engine, Instruction, Load, Save
from edgesearch.board_eval.targets import BoardProfile, NetworkKind, Target, TimingConstants
from edgesearch.board_eval.timing._certainty import kind_of
from edgesearch.board_eval.timing._emission import QUEUE_DEPTH
from edgesearch.board_eval.timing._fusion import Layer
from edgesearch.board_eval.timing._timing import LayerTime, Timing, layer_time, timing_of
from edgesearch.errors import InstructionError

__all__ = ["LayeredCode", "code_cycles", "run_code", "time_code"]

#: Registers of compiled files: constants, feature maps, the image.
_CONSTANTS, _WORKSPACE = 0, 1
#: What an ALUINIT of a depthwise convolution says.
_DEPTHWISE = 0


@dataclass(frozen=True)
class LayeredCode:
    """A program whose instructions know their layer; `layer_of` may name one more than there are, for END.

    known_kind: that of the network, where it is known: a compiler adds depthwise steps to a network that has none.
    """

    network: str
    program: tuple[Instruction, ...]
    layer_of: tuple[int, ...]
    layers: tuple[Layer, ...]
    known_kind: NetworkKind | None = None

    @property
    def kind(self) -> NetworkKind:
        """What its interval goes by; of a file, whose layers are not known, by its instructions."""
        if self.known_kind is not None:
            return self.known_kind
        if self.layers:
            return kind_of(self.layers)
        depthwise = any(isinstance(one, AluInit) and one.exec_mode == _DEPTHWISE for one in self.program)
        return "depthwise" if depthwise else "dense"

    def _moved(self, kind: type[Load] | type[Save], register: int | None = None) -> int:
        found = (one for one in self.program if isinstance(one, kind) and register in (None, one.reg_id))
        return sum(one.length * one.channel for one in found)

    @property
    def loaded_bytes(self) -> int:
        """Bytes loaded: parameters, feature maps and the image."""
        return self._moved(Load)

    @property
    def saved_bytes(self) -> int:
        """Bytes saved."""
        return self._moved(Save)

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters loaded."""
        return self._moved(Load, _CONSTANTS)

    @property
    def conv_cycles(self) -> int:
        """Cycles that its convolutions take."""
        cycles, taps = 0, 1
        for one in self.program:
            if isinstance(one, ConvInit):
                taps = one.kernel_h * one.kernel_w
            elif isinstance(one, Conv):
                cycles += one.length * one.channel_group * taps
        return cycles

    @property
    def spilled_bytes(self) -> int:
        """Bytes of feature maps read back from external memory."""
        return self._moved(Load, _WORKSPACE)

    @property
    def fits_on_chip(self) -> bool:
        """Whether only the image and the result touch external memory."""
        return not self._moved(Save, _WORKSPACE)


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


def run_code(
    program: Sequence[Instruction], cycles: Sequence[float], *, depth: int = QUEUE_DEPTH
) -> tuple[list[float], list[int]]:
    """When each instruction ends, in cycles, and which one it waited for last (-1: none).

    Instructions are issued in the order of the code into queues of `depth` instructions each. Raises InstructionError for one
    that waits for ever.
    """
    free, last = [0.0] * len(Engine), [-1] * len(Engine)
    starts: list[list[tuple[float, int]]] = [[] for _ in Engine]
    tokens: dict[tuple[int, int], deque[int]] = {(a, b): deque() for a in Engine for b in Engine if a != b}
    ends: list[float] = []
    bounds: list[int] = []
    issued = (0.0, -1)
    for number, (one, cost) in enumerate(zip(program, cycles, strict=True)):
        engine = one.ENGINE
        if len(starts[engine]) >= depth:
            issued = max(issued, starts[engine][-depth])
        start, bound = max((free[engine], last[engine]), issued)
        for other in Engine:
            if one.takes(other):
                if not tokens[other, engine]:
                    raise InstructionError(
                        f"instruction {number} ({type(one).__name__} on {engine.name}) waits for a token of {other.name} that "
                        "no instruction before it gives: the program would never end; compile the network again"
                    )
                giver = tokens[other, engine].popleft()
                start, bound = max((start, bound), (ends[giver], giver))
        starts[engine].append((start, bound))
        end = free[engine] = start + cost
        last[engine] = number
        ends.append(end)
        bounds.append(bound)
        for other in Engine:
            if one.gives(other):
                tokens[engine, other].append(number)
    return ends, bounds


def time_code(
    code: LayeredCode, profile: BoardProfile, *, pixels: int, runner: str | None = None, layers: bool = True
) -> Timing:
    """Predict latency and throughput of code on a board; the parameters are those of `time_graph` and `time_program`."""
    cycles = code_cycles(code.program, profile.constants, profile.dpu)
    ends, bounds = run_code(code.program, cycles)
    spent = np.zeros((len(code.layers) + 1, len(Engine)))
    position = max(range(len(ends)), key=ends.__getitem__, default=-1)
    while position >= 0:
        before = bounds[position]
        engine = code.program[position].ENGINE
        spent[code.layer_of[position], engine] += ends[position] - (ends[before] if before >= 0 else 0.0)
        position = before
    cycle = 1e-6 / profile.clock_mhz
    table = _layer_times(code, cycles, spent * cycle) if layers else ()
    return timing_of(
        code,
        max(ends, default=0.0) * cycle,
        spent,
        profile,
        pixels=pixels,
        runner=runner,
        layers=table,
        of_amd=False,
    )


def _layer_times(code: LayeredCode, cycles: Sequence[float], spent: npt.NDArray[np.float64]) -> tuple[LayerTime, ...]:
    loaded, saved, computed = ([0] * (len(code.layers) + 1) for _ in range(3))
    for one, number, cost in zip(code.program, code.layer_of, cycles, strict=True):
        if isinstance(one, Load):
            loaded[number] += one.length * one.channel
        elif isinstance(one, Save):
            saved[number] += one.length * one.channel
        elif isinstance(one, Conv):
            computed[number] += int(cost)
    return tuple(
        layer_time(
            layer,
            spent[i].tolist(),
            loaded_bytes=loaded[i],
            saved_bytes=saved[i],
            conv_cycles=computed[i],
            spilled=saved[i] > 0,
        )
        for i, layer in enumerate(code.layers)
    )
