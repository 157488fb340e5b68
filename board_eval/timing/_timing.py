"""How long a program takes: four in-order engines that wait for each other where data demands it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.isa import Engine
from edgesearch.board_eval.targets import BoardProfile, NetworkKind, TimingConstants, check_profile
from edgesearch.board_eval.timing._certainty import (
    code_doubt,
    half_width,
    interval,
    is_measured,
    latency_doubt,
    throughput_doubt,
)
from edgesearch.board_eval.timing._fusion import Layer
from edgesearch.board_eval.timing._instructions import ENGINE_OF, Kind
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._throughput import BusyCores, Moves

#: Of the model of the code that AMD's compiler writes, `time_graph`; raised by one whenever it foretells another time.
#: 1: strides above their kernel, linear layers too long for a pixel and first kernels with holes were too fast.
TIMING_VERSION = 2

Bound = Literal["compute", "memory", "host"]


@dataclass(frozen=True)
class LayerTime:
    """One layer's share of the DPU time: the stretches of the critical path that run through it, by engine."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    in_shape: tuple[int, int, int]
    mid_shape: tuple[int, int, int]  # of the main operation, before what is fused behind it
    out_shape: tuple[int, int, int]
    seconds: float
    load_s: float
    save_s: float
    conv_s: float
    misc_s: float
    loaded_bytes: int
    saved_bytes: int
    conv_cycles: int
    spilled: bool

    @property
    def bound_by(self) -> str:
        """The engine most of the layer's time goes to: load, save, conv or misc."""
        times = {"conv": self.conv_s, "misc": self.misc_s, "load": self.load_s, "save": self.save_s}
        return max(times, key=times.__getitem__)


@dataclass(frozen=True)
class Timing:
    """The time of one network on one board. Times in seconds, for one image."""

    network: str
    board: str
    #: The DPU's own time, from its start to its interrupt.
    dpu_s: float
    #: Host work around one image, for the named runner, and what of it is pre- and post-processing known apart from the call.
    host_s: float
    processing_s: float
    runner: str
    #: One image, one thread: DPU, job and host.
    latency_s: float
    #: All cores busy, as many threads as the runner has.
    throughput_fps: float
    #: What takes most of one image's time, and what bounds the throughput: the DPU's arithmetic, its memory, or the host.
    latency_bound: Bound
    throughput_bound: Bound
    #: Half widths of the 90 % intervals of both times, relative to them; 0: not known.
    latency_error: float
    throughput_error: float
    #: What the intervals were taken from, beside board and runner.
    kind: NetworkKind
    #: Whether the constants were compared with measurements of this size of the DPU.
    size_measured: bool
    layers: tuple[LayerTime, ...]
    loaded_bytes: int
    saved_bytes: int
    weight_bytes: int
    spilled_bytes: int
    fits_on_chip: bool

    @property
    def latency_fps(self) -> float:
        """Images per second of one thread."""
        return 1.0 / self.latency_s

    @property
    def latency_fps_interval(self) -> tuple[float, float]:
        """Between these frames per second of one thread lie 90 % of measurements; both equal where that is not known."""
        return interval(self.latency_fps, self.latency_error)

    @property
    def throughput_fps_interval(self) -> tuple[float, float]:
        """Between these frames per second of all cores lie 90 % of measurements; both equal where that is not known."""
        return interval(self.throughput_fps, self.throughput_error)

    def figures(self) -> dict[str, Any]:
        """What files say of it: board and runner, times, half the 90 % intervals (None: not known), and what bounds them."""
        return {
            "board": self.board,
            "runner": self.runner,
            "dpu_us": round(self.dpu_s * 1e6, 3),
            "latency_ms": round(self.latency_s * 1e3, 6),
            "latency_error": round(self.latency_error, 4) or None,
            "latency_bound": self.latency_bound,
            "fps": round(self.throughput_fps, 3),
            "fps_error": round(self.throughput_error, 4) or None,
            "throughput_bound": self.throughput_bound,
        }

    @property
    def bytes_moved(self) -> int:
        """Bytes read from and written to external memory."""
        return self.loaded_bytes + self.saved_bytes


def time_graph(graph: Graph, profile: BoardProfile, *, runner: str | None = None, layers: bool = True) -> Timing:
    """The time of `graph` on a board, fed by one of the profile's runners (None: its default).

    Raises GraphError when the DPU cannot hold the network, TargetError for a runner that the profile does not have.
    `layers=False` leaves out the table by layer and is faster.
    """
    check_profile(profile)
    program = schedule(graph, profile.dpu)
    return time_program(program, profile, pixels=input_pixels(graph), runner=runner, layers=layers)


def input_pixels(graph: Graph) -> int:
    """Height x width of the input image; 1 for a vector."""
    shape = graph.input.shape
    return shape[0] * shape[1] if len(shape) == 3 else 1


def time_program(
    program: Program, profile: BoardProfile, *, pixels: int, runner: str | None = None, layers: bool = True
) -> Timing:
    """Like `time_graph`, for a program; `pixels` is the size of the input image, height x width."""
    cost = instruction_costs(program, profile.constants)
    ends, bounds = run(program, cost)
    cycle = 1e-6 / profile.clock_mhz
    spent = critical_path(program, cost, ends, bounds)
    table = layer_times(program, spent, cycle) if layers else ()
    return timing_of(program, float(max(ends, default=0.0)) * cycle, spent, profile, pixels=pixels, runner=runner, layers=table)


class Timed(Moves, Protocol):
    """A program, as far as its totals go."""

    @property
    def network(self) -> str:
        """Name of the network."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What it runs as one, in order."""
        ...

    @property
    def kind(self) -> NetworkKind:
        """What the width of its interval goes by."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters loaded."""
        ...

    @property
    def spilled_bytes(self) -> int:
        """Bytes of feature maps read back from external memory."""
        ...

    @property
    def fits_on_chip(self) -> bool:
        """Whether only the image and the result touch external memory."""
        ...


def timing_of(
    program: Timed,
    dpu_s: float,
    spent: npt.NDArray[np.float64],
    profile: BoardProfile,
    *,
    pixels: int,
    runner: str | None,
    layers: tuple[LayerTime, ...],
    of_amd: bool = True,
) -> Timing:
    """The time of a program that takes `dpu_s` seconds on a core alone, on a board with a runner.

    `spent` is (layers, engines), in any unit: where the time went. `of_amd`: whether the code is what AMD's compiler writes.
    """
    host = profile.runner(runner)
    busy = BusyCores.of(program, dpu_s, profile.cores, profile, host)
    by_engine = spent.sum(axis=0)
    moving = by_engine[Engine.LOAD] + by_engine[Engine.SAVE] > by_engine[Engine.CONV] + by_engine[Engine.MISC]
    dpu_bound: Bound = "memory" if moving else "compute"
    host_s = host.of(pixels)
    latency_s = dpu_s + profile.job_seconds + host_s
    kind, code = program.kind, code_doubt(program.layers, profile, of_amd=of_amd)
    known = host.widths(kind)
    return Timing(
        network=program.network,
        board=profile.name,
        dpu_s=dpu_s,
        host_s=host_s,
        processing_s=host.around_the_call(pixels),
        runner=runner or profile.default_runner,
        latency_s=latency_s,
        throughput_fps=busy.fps(host, pixels),
        latency_bound="host" if host_s + profile.job_seconds > dpu_s else dpu_bound,
        throughput_bound="host" if busy.bound_by_host(host, pixels) else dpu_bound,
        latency_error=half_width(known.latency, latency_doubt(host_s, latency_s, code)),
        throughput_error=half_width(known.throughput, throughput_doubt(busy, host, pixels, code)),
        kind=kind,
        size_measured=is_measured(profile.dpu),
        layers=layers,
        loaded_bytes=program.loaded_bytes,
        saved_bytes=program.saved_bytes,
        weight_bytes=program.weight_bytes,
        spilled_bytes=program.spilled_bytes,
        fits_on_chip=program.fits_on_chip,
    )


def instruction_costs(program: Program, constants: TimingConstants) -> npt.NDArray[np.float64]:
    """Cycles each entry of a program occupies its engine."""
    c = constants
    column = program.columns
    kind, size, words, cycles = column["kind"], column["bytes"], column["words"], column["cycles"]
    one = np.zeros(len(kind))
    load = kind <= Kind.LOAD_IMAGE
    one[load] = c.load + np.maximum(c.load_word * words[load], size[load] / c.load_bytes_per_cycle)
    for what, issue, per_unit, units in (
        (Kind.SAVE, c.save, c.save_word, words),
        (Kind.CONV, c.conv, 1.0, cycles),
        (Kind.ALU, c.alu, c.alu_step, cycles),
        (Kind.ELEW, c.elew, c.elew_step, cycles),
    ):
        chosen = kind == what
        one[chosen] = issue + per_unit * units[chosen]
    return one * column["repeat"]


def run(program: Program, cost: npt.NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """When each entry ends, in cycles, and which earlier entry it waited for last (-1: none)."""
    free = [0.0] * len(Engine)
    last = [-1] * len(Engine)
    ends: list[float] = []
    bounds: list[int] = []
    engine_of = [int(engine) for engine in ENGINE_OF]
    for position, (kind, after, cycles) in enumerate(zip(program.tape.kind, program.tape.after, cost.tolist(), strict=True)):
        engine = engine_of[kind]
        start, bound = free[engine], last[engine]
        for other in after:
            if ends[other] > start:
                start, bound = ends[other], other
        end = start + cycles
        ends.append(end)
        bounds.append(bound)
        free[engine] = end
        last[engine] = position
    return ends, bounds


def critical_path(
    program: Program, cost: npt.NDArray[np.float64], ends: list[float], bounds: list[int]
) -> npt.NDArray[np.float64]:
    """(layers, engines): cycles of the path that decides the time, which add up to the whole."""
    tape = program.tape
    costs = cost.tolist()
    spent = [[0.0] * len(Engine) for _ in program.layers]
    position = max(range(len(ends)), key=ends.__getitem__, default=-1)
    while position >= 0:
        spent[tape.layer[position]][ENGINE_OF[tape.kind[position]]] += costs[position]
        position = bounds[position]
    return np.array(spent).reshape(len(program.layers), len(Engine))


def layer_times(program: Program, spent: npt.NDArray[np.float64], seconds: float) -> tuple[LayerTime, ...]:
    """The critical path, cut by layer and engine, with a cycle of `seconds`: the times add up to the whole."""
    moved = _per_layer(program, "bytes")
    conv = _per_layer(program, "cycles")[:, Kind.CONV]
    return tuple(
        layer_time(
            layer,
            (spent[i] * seconds).tolist(),
            loaded_bytes=int(moved[i, : Kind.SAVE].sum()),
            saved_bytes=int(moved[i, Kind.SAVE]),
            conv_cycles=int(conv[i]),
            spilled=not program.allocation.on_chip(layer.output),
        )
        for i, layer in enumerate(program.layers)
    )


def layer_time(
    layer: Layer, spent: Sequence[float], *, loaded_bytes: int, saved_bytes: int, conv_cycles: int, spilled: bool
) -> LayerTime:
    """One row of a table by layer; `spent` is the seconds of each engine on the critical path."""
    return LayerTime(
        name=layer.name,
        kind=layer.kind if layer.post == "none" else f"{layer.kind}+{layer.post}",
        nodes=layer.nodes,
        in_shape=layer.in_shape,
        mid_shape=layer.mid_shape,
        out_shape=layer.out_shape,
        seconds=sum(spent),
        load_s=spent[Engine.LOAD],
        save_s=spent[Engine.SAVE],
        conv_s=spent[Engine.CONV],
        misc_s=spent[Engine.MISC],
        loaded_bytes=loaded_bytes,
        saved_bytes=saved_bytes,
        conv_cycles=conv_cycles,
        spilled=spilled,
    )


def _per_layer(program: Program, column: str) -> npt.NDArray[np.int64]:
    """(layers, kinds) sums of a column."""
    table = np.zeros((len(program.layers), len(Kind)), dtype=np.int64)
    c = program.columns
    np.add.at(table, (c["layer"], c["kind"]), c["repeat"] * c[column])
    return table
