"""The constants of a board that explain measurements best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile, Contention, HostRunner, TimingConstants
from edgesearch.board_eval.timing._code import LayeredCode, code_cycles, run_code
from edgesearch.board_eval.timing._instructions import Kind
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._throughput import BusyCores, Moves, traffic
from edgesearch.board_eval.timing._timing import input_pixels, instruction_costs, run

#: Weight of staying at the constants one starts from, per relative change of one constant: what the measurements do not
#: determine keeps its value. 0.02 lets a constant double for an error of 2 % in one measurement.
PRIOR = 0.02
#: Relative error above which a measurement counts less (soft L1): one wrong row must not bend the fit.
OUTLIER = 0.03
#: Throughputs of several cores that tell the parts of their contention apart; with fewer, its fixed part alone is fitted.
_ENOUGH_FOR_TRAFFIC = 6
#: A throughput this close to the host's bound is taken for it.
_CLOSE = 1.03
_FITTED = tuple(TimingConstants.model_fields)


def constants_of(profile: BoardProfile) -> dict[str, float]:
    """Every number that a fit may change, by the name that it has in a profile's file."""
    named = {f"constants.{name}": float(getattr(profile.constants, name)) for name in _FITTED}
    named["job_seconds"] = profile.job_seconds
    for name, host in profile.runners.items():
        named[f"runners.{name}.seconds"] = host.seconds
        for part in Contention.model_fields:
            named[f"runners.{name}.contention.{part}"] = float(getattr(host.contention, part))
    return named


def constants_spoken_of(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> int:
    """How many constants the rows have to do with."""
    main = _main_runner(rows, profile)
    alone = any(row.what == "throughput" and cores_of(row, profile) == 1 for row in rows)
    count = (len(_FITTED) + 1) * (alone or main is not None)
    for runner in profile.runners:
        sizes = {networks[row.network].pixels for row in rows if _is_latency(row, runner, profile)}
        shared = [row for row in rows if _shares(row, runner, profile)]
        count += min(len(sizes), 1 if runner == main else 2)
        count += len(Contention.model_fields) if len(shared) >= _ENOUGH_FOR_TRAFFIC else bool(shared)
    return count


def fit(rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile) -> BoardProfile:
    """The profile with what the rows decide fitted to them: first the DPU and one runner, then each runner by itself."""
    main = _main_runner(rows, profile)
    fitted = _fit_dpu(rows, networks, profile, main)
    for runner in profile.runners:
        if runner != main:
            fitted = fit_host(rows, networks, fitted, runner)
        fitted = fit_contention(rows, networks, fitted, runner)
    return fitted


def _main_runner(rows: Sequence[MeasurementRow], profile: BoardProfile) -> str | None:
    """The runner whose latencies the DPU's constants are fitted to: the one without work that grows with the image, if any."""
    named = [name for name in profile.runners if any(_is_latency(row, name, profile) for row in rows)]
    plain = [name for name in named if profile.runners[name].seconds_per_pixel == 0]
    chosen = profile.default_runner if profile.default_runner in named else next(iter(plain), None)
    if chosen is None and not any(row.what == "throughput" and cores_of(row, profile) == 1 for row in rows):
        return next(iter(named), None)
    return chosen


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


def cores_of(row: MeasurementRow, profile: BoardProfile) -> int:
    """How many cores a throughput row is of: all unless it says so."""
    return profile.cores if row.cores is None else row.cores


def _fit_dpu(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, main: str | None
) -> BoardProfile:
    used = [
        row
        for row in rows
        if (row.what == "throughput" and cores_of(row, profile) == 1) or (main is not None and _is_latency(row, main, profile))
    ]
    if not used:
        return profile
    weights = _family_weights(used)
    host = profile.runner(main)
    start = np.array([getattr(profile.constants, name) for name in _FITTED] + [profile.job_seconds, host.seconds])
    scale = np.maximum(start, [0.1] * len(_FITTED) + [1e-5, 1e-5])

    def at(u: npt.NDArray[np.float64]) -> BoardProfile:
        values = (u * scale).tolist()
        constants = TimingConstants(**dict(zip(_FITTED, values, strict=False)))
        trial = profile.model_copy(update={"constants": constants, "job_seconds": values[-2]})
        return trial if main is None else _with_runner(trial, main, seconds=values[-1])

    def residuals(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        trial = at(u)
        times = {network: networks[network].dpu_s(trial) for network in {row.network for row in used}}
        errors = [math.log(row.fps / predict(row, networks[row.network], times[row.network], trial)) for row in used]
        return np.concatenate([weights * np.array(errors), PRIOR * (u - start / scale)])

    return at(_least_squares(residuals, start / scale))


def _least_squares(
    residuals: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], start: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    from scipy.optimize import least_squares

    lower = np.full(len(start), 1e-6)
    found = least_squares(
        residuals, np.maximum(start, 2e-6), bounds=(lower, np.full(len(start), 20.0)), diff_step=1e-3, loss="soft_l1",
        f_scale=OUTLIER, max_nfev=15,
    )  # fmt: skip
    return np.asarray(found.x, dtype=np.float64)


def _with_runner(profile: BoardProfile, name: str, **changes: object) -> BoardProfile:
    """The profile with changes to one of its runners."""
    changed = {**profile.runners, name: profile.runners[name].model_copy(update=changes)}
    return profile.model_copy(update={"runners": changed})


def _is_latency(row: MeasurementRow, runner: str, profile: BoardProfile) -> bool:
    return row.what == "latency" and runner_of(row, profile) == runner


def _shares(row: MeasurementRow, runner: str, profile: BoardProfile) -> bool:
    return row.what == "throughput" and cores_of(row, profile) > 1 and runner_of(row, profile) == runner


def _bound_by_host(row: MeasurementRow, pixels: int, profile: BoardProfile) -> bool:
    """Whether a throughput is about what the row's runner allows at most."""
    busy = BusyCores(cores_of(row, profile), cores_of(row, profile) / row.fps, 0.0, profile.host_processors)
    return busy.host_fps(profile.runner(runner_of(row, profile)), pixels) < _CLOSE * row.fps


def _family_weights(rows: Iterable[MeasurementRow]) -> npt.NDArray[np.float64]:
    families = [row.family or row.network for row in rows]
    return np.array([families.count(family) ** -0.5 for family in families])


def fit_host(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, runner: str
) -> BoardProfile:
    """Fixed and per-pixel time of a runner, never negative, by least squares of relative errors."""
    used = [row for row in rows if _is_latency(row, runner, profile)]
    if not used:
        return profile
    host: HostRunner = profile.runners[runner]
    seconds = np.array([1.0 / row.fps for row in used])
    known = [networks[row.network].dpu_s(profile) + profile.job_seconds for row in used]
    rest = seconds - known - [host.around_the_call(networks[row.network].pixels) for row in used]
    pixels = np.array([networks[row.network].pixels for row in used], dtype=np.float64)
    weights = _family_weights(used) / seconds
    terms = np.stack([np.ones(len(used)), pixels], axis=1) if len(set(pixels.tolist())) > 1 else np.ones((len(used), 1))
    if terms.shape[1] == 1:  # one image size: the slope stays as it was
        rest = rest - host.seconds_per_pixel * pixels
    solution = _non_negative(terms * weights[:, None], rest * weights)
    slope = solution[1] if len(solution) > 1 else host.seconds_per_pixel
    return _with_runner(profile, runner, seconds=solution[0], seconds_per_pixel=slope)


def fit_contention(
    rows: Sequence[MeasurementRow], networks: Mapping[str, Network], profile: BoardProfile, runner: str
) -> BoardProfile:
    """What each further core costs: its three parts, or with few rows the median of the fixed one.

    Rows that the host bounds tell nothing about it.
    """
    used = [
        row for row in rows if _shares(row, runner, profile) and not _bound_by_host(row, networks[row.network].pixels, profile)
    ]
    if not used:
        return profile
    alone = np.array([networks[row.network].dpu_s(profile) for row in used])
    cores = np.array([cores_of(row, profile) for row in used])
    slowdown = (cores / np.array([row.fps for row in used]) - profile.job_seconds) / alone
    each = (slowdown - 1.0) / (cores - 1)
    moved = np.array([traffic(networks[row.network].program, t) for row, t in zip(used, alone, strict=True)])
    if len({row.network for row in used}) >= _ENOUGH_FOR_TRAFFIC:
        weights = _family_weights(used) / slowdown
        terms = np.concatenate([np.ones((len(used), 1)), moved], axis=1)
        parts = _non_negative(terms * weights[:, None], each * weights)
        found = Contention(**dict(zip(Contention.model_fields, parts, strict=True)))
    else:
        known = profile.runners[runner].contention
        rest = each - moved @ np.array([known.per_loaded_gb_s, known.per_saved_gb_s])
        found = known.model_copy(update={"fixed": max(0.0, float(np.median(rest)))})
    return _with_runner(profile, runner, contention=found)


def _non_negative(terms: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> list[float]:
    """The least-squares solution without negative parts."""
    from scipy.optimize import nnls

    size = np.maximum(np.abs(terms).max(axis=0), 1e-300)
    return [float(part) for part in nnls(terms / size, values)[0] / size]
