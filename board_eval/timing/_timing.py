"""How long a program takes: four in-order engines that wait for each other where data demands it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile, HostRunner, TimingConstants
from edgesearch.board_eval.timing._instructions import ENGINE_OF, Engine, Kind
from edgesearch.board_eval.timing._schedule import Program, schedule

Bound = Literal["compute", "memory", "host"]
#: The size that nearly all published measurements are of, by its operations per cycle: B4096.
MEASURED_OPERATIONS = 4096
#: Half width of the intervals of other sizes. The eight networks published for a B1600 (Ultra96, compiled by AMD's compiler of
#: 2019) take about 22 % longer than the laws of the B4096 say.
OTHER_SIZE_ERROR = 0.25
#: Half width of the interval of a host's time: two Python programs on one board need 0.14 and 0.25 ms around the same call.
HOST_ERROR = 0.25
#: GB/s that the measured networks load on one core at most, and how much wider the interval gets for each beyond.
MEASURED_TRAFFIC = 3.4
TRAFFIC_ERROR = 0.1
#: No interval is wider than this.
MOST_ERROR = 0.5


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
    #: Host work around one image, for the named runner.
    host_s: float
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
        return _interval(self.latency_fps, self.latency_error)

    @property
    def throughput_fps_interval(self) -> tuple[float, float]:
        """Between these frames per second of all cores lie 90 % of measurements; both equal where that is not known."""
        return _interval(self.throughput_fps, self.throughput_error)

    @property
    def bytes_moved(self) -> int:
        """Bytes read from and written to external memory."""
        return self.loaded_bytes + self.saved_bytes


def _interval(fps: float, error: float) -> tuple[float, float]:
    """Frames per second when the time is `error` longer, and shorter."""
    return fps / (1 + error), fps / (1 - error)


def time_graph(graph: Graph, profile: BoardProfile, *, runner: str | None = None, layers: bool = True) -> Timing:
    """The time of `graph` on a board, fed by one of the profile's runners (None: its default).

    Raises GraphError when the DPU cannot hold the network, TargetError for a runner that the profile does not have.
    `layers=False` leaves out the table by layer and is faster.
    """
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
    host = profile.runner(runner)
    cost = instruction_costs(program, profile.constants)
    ends, bounds = run(program, cost)
    seconds = 1e-6 / profile.clock_mhz
    dpu_s = float(max(ends, default=0.0)) * seconds
    spent = critical_path(program, cost, ends, bounds)
    loaded = program.weight_bytes + program.spilled_bytes + program.image_bytes
    busy = BusyCores.of(dpu_s, loaded, program.saved_bytes, profile, host)
    by_engine = spent.sum(axis=0)
    moving = by_engine[Engine.LOAD] + by_engine[Engine.SAVE] > by_engine[Engine.CONV] + by_engine[Engine.MISC]
    dpu_bound: Bound = "memory" if moving else "compute"
    host_s = host.of(pixels)
    return Timing(
        network=program.network,
        board=profile.name,
        dpu_s=dpu_s,
        host_s=host_s,
        runner=runner or profile.default_runner,
        latency_s=dpu_s + profile.job_seconds + host_s,
        throughput_fps=busy.fps(host, pixels),
        latency_bound="host" if host_s + profile.job_seconds > dpu_s else dpu_bound,
        throughput_bound="host" if busy.bound_by_host(host, pixels) else dpu_bound,
        latency_error=_error(host.latency_error, (host_s / (dpu_s + profile.job_seconds + host_s)) * HOST_ERROR, profile),
        throughput_error=_error(host.throughput_error, _throughput_doubt(busy, host, pixels, loaded, dpu_s, profile), profile),
        layers=layer_times(program, spent, seconds) if layers else (),
        loaded_bytes=loaded,
        saved_bytes=program.saved_bytes,
        weight_bytes=program.weight_bytes,
        spilled_bytes=program.spilled_bytes,
        fits_on_chip=program.fits_on_chip,
    )


def _error(known: float, doubt: float, profile: BoardProfile) -> float:
    """The half width of an interval: what is known of networks like the measured ones, and what this one leaves in doubt."""
    if not known:
        return 0.0
    measured = profile.dpu.operations_per_cycle == MEASURED_OPERATIONS
    return min(MOST_ERROR, math.hypot(known, doubt, 0.0 if measured else OTHER_SIZE_ERROR))


def _throughput_doubt(
    busy: BusyCores, host: HostRunner, pixels: int, loaded: int, dpu_s: float, profile: BoardProfile
) -> float:
    """The host's where it is the bound or must keep more than one thread busy; that of traffic beyond what was measured."""
    if busy.bound_by_host(host, pixels):
        return HOST_ERROR
    beyond = loaded / dpu_s / 1e9 - MEASURED_TRAFFIC if dpu_s and profile.cores > 1 else 0.0
    crowd = busy.fps(host, pixels) * host.of(pixels) - 1.0
    return TRAFFIC_ERROR * max(0.0, beyond) + HOST_ERROR * max(0.0, crowd)


@dataclass(frozen=True)
class BusyCores:
    """Several cores that work on the same network: how many, and what one image takes on each, job included."""

    cores: int
    core_s: float

    @classmethod
    def of(cls, dpu_s: float, loaded: int, saved: int, profile: BoardProfile, host: HostRunner) -> BusyCores:
        """All cores of a board, for a network's DPU time alone and the bytes that it loads and saves."""
        traffic = (loaded / dpu_s / 1e9, saved / dpu_s / 1e9) if dpu_s > 0 else (0.0, 0.0)
        return cls(profile.cores, dpu_s * host.contention.slowdown(profile.cores, *traffic) + profile.job_seconds)

    def fps(self, host: HostRunner, pixels: int) -> float:
        """Images per second: the least of what the cores, the runner's threads and its serial part allow."""
        return min(self.cores / self.core_s, self.host_fps(host, pixels))

    def bound_by_host(self, host: HostRunner, pixels: int) -> bool:
        """Whether the cores would do more than the host gives them."""
        return self.host_fps(host, pixels) < self.cores / self.core_s

    def host_fps(self, host: HostRunner, pixels: int) -> float:
        """Images per second that the runner's threads and its serial part allow."""
        threads = host.threads / (host.of(pixels) + self.core_s)
        return min(threads, 1.0 / host.serial_seconds) if host.serial_seconds else threads


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
    out = []
    for i, layer in enumerate(program.layers):
        load_s, save_s, conv_s, misc_s = (spent[i] * seconds).tolist()
        out.append(
            LayerTime(
                name=layer.name,
                kind=layer.kind if layer.post == "none" else f"{layer.kind}+{layer.post}",
                nodes=layer.nodes,
                in_shape=layer.in_shape,
                mid_shape=layer.mid_shape,
                out_shape=layer.out_shape,
                seconds=load_s + save_s + conv_s + misc_s,
                load_s=load_s,
                save_s=save_s,
                conv_s=conv_s,
                misc_s=misc_s,
                loaded_bytes=int(moved[i, : Kind.SAVE].sum()),
                saved_bytes=int(moved[i, Kind.SAVE]),
                conv_cycles=int(conv[i]),
                spilled=not program.allocation.on_chip(layer.output),
            )
        )
    return tuple(out)


def _per_layer(program: Program, column: str) -> npt.NDArray[np.int64]:
    """(layers, kinds) sums of a column."""
    table = np.zeros((len(program.layers), len(Kind)), dtype=np.int64)
    c = program.columns
    np.add.at(table, (c["layer"], c["kind"]), c["repeat"] * c[column])
    return table
