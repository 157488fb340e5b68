"""Networks as measurements need them, and the frames per second that a profile foretells of a measured row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile
from edgesearch.board_eval.timing._code import LayeredCode, code_cycles, run_code
from edgesearch.board_eval.timing._instructions import Kind
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._throughput import BusyCores, Moves
from edgesearch.board_eval.timing._timing import input_pixels, instruction_costs, run

#: This project's program in C++ (run_on_board.cpp) as rows and profiles call it: `cpp` is Vitis AI's library, which prepares
#: pictures on the CPU. No shipped profile has it, since nothing was measured with it; until then it is taken for the other.
CPP_RUNNER, _INSTEAD = "vart_cpp", "vart_python"


class Network(Protocol):
    """A network as far as a fit needs it: what it moves, the pixels of its image (height x width), and its time."""

    @property
    def program(self) -> Moves:
        """What it loads and saves."""
        ...

    @property
    def pixels(self) -> int:
        """Of its image."""
        ...

    @property
    def conv_cycles(self) -> int:
        """Cycles that its convolutions take, which nothing shortens."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases that each image loads."""
        ...

    def dpu_s(self, profile: BoardProfile) -> float:
        """Seconds on one core alone, with the profile's constants and clock."""
        ...


@dataclass(frozen=True)
class Foretold:
    """A network by the model's own schedule, which stands for the code of AMD's compiler."""

    program: Program
    pixels: int

    @classmethod
    def of(cls, graph: Graph, profile: BoardProfile) -> Foretold:
        """The network of a graph on a profile's DPU; raises GraphError where it does not fit."""
        return cls(schedule(graph, profile.dpu), input_pixels(graph))

    @property
    def conv_cycles(self) -> int:
        """Of its convolutions."""
        columns = self.program.columns
        return int((columns["cycles"] * columns["repeat"])[columns["kind"] == Kind.CONV].sum())

    @property
    def weight_bytes(self) -> int:
        """Of weights and biases."""
        columns = self.program.columns
        chosen = (columns["kind"] == Kind.LOAD_WEIGHTS) | (columns["kind"] == Kind.LOAD_BIAS)
        return int((columns["bytes"] * columns["repeat"])[chosen].sum())

    def dpu_s(self, profile: BoardProfile) -> float:
        """Seconds on one core alone, with the profile's constants and clock."""
        ends, _ = run(self.program, instruction_costs(self.program, profile.constants))
        return max(ends) * 1e-6 / profile.clock_mhz


@dataclass(frozen=True)
class MeasuredCode:
    """A network by the very code that was measured."""

    program: LayeredCode
    pixels: int

    @property
    def conv_cycles(self) -> int:
        """Of its convolutions."""
        return self.program.conv_cycles

    @property
    def weight_bytes(self) -> int:
        """Of weights and biases."""
        return self.program.weight_bytes

    def dpu_s(self, profile: BoardProfile) -> float:
        """Seconds on one core alone, with the profile's constants and clock."""
        code = self.program.program
        ends, _ = run_code(code, code_cycles(code, profile.constants, profile.dpu))
        return max(ends) * 1e-6 / profile.clock_mhz


def predict(row: MeasurementRow, network: Network, dpu_s: float, profile: BoardProfile) -> float:
    """Frames per second of a row, from the DPU time of its network."""
    host = profile.runner(runner_of(row, profile))
    if row.what == "latency":
        return 1.0 / (dpu_s + profile.job_seconds + host.of(network.pixels))
    busy = BusyCores.of(network.program, dpu_s, cores_of(row, profile), profile, host)
    return busy.fps(host, network.pixels)


def runner_of(row: MeasurementRow, profile: BoardProfile) -> str:
    """The name of a row's runner; "python", which files of 0.1.0 call it, is the one of VART where there is no such runner."""
    name = row.runner or profile.default_runner
    return "vart_python" if name == "python" and name not in profile.runners else name


def with_cpp_runner(rows: Iterable[MeasurementRow], profile: BoardProfile) -> BoardProfile:
    """The profile with a runner for rows of our program in C++; where it has none, a fit begins with Python's figures."""
    if CPP_RUNNER in profile.runners or _INSTEAD not in profile.runners or all(row.runner != CPP_RUNNER for row in rows):
        return profile
    like = profile.runners[_INSTEAD].model_copy(update={"origin": f"as {_INSTEAD}, but for what its measurements decide"})
    return profile.model_copy(update={"runners": {**profile.runners, CPP_RUNNER: like}})


def program_runner(program: str, profile: BoardProfile) -> str | None:
    """The profile's runner for one of our programs on a board, "python" or "cpp"; None: it has no such, but its default one."""
    known = ("python", _INSTEAD) if program == "python" else (CPP_RUNNER, _INSTEAD, "python")
    return next((name for name in known if name in profile.runners), None)


def cores_of(row: MeasurementRow, profile: BoardProfile) -> int:
    """How many cores a throughput row is of: all unless it says so."""
    return profile.cores if row.cores is None else row.cores


def with_runner(profile: BoardProfile, name: str, **changes: object) -> BoardProfile:
    """The profile with changes to one of its runners."""
    changed = {**profile.runners, name: profile.runners[name].model_copy(update=changes)}
    return profile.model_copy(update={"runners": changed})
