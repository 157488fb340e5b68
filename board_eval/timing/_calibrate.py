"""Fitting the timing constants of a board to measured frames per second."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile, HostOverhead, TimingConstants
from edgesearch.board_eval.timing._plausibility import check_explained, check_rows, moved
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._timing import Runner, input_pixels, instruction_costs, run, throughput
from edgesearch.errors import EdgesearchError, MeasurementError

What: TypeAlias = Literal["latency", "throughput"]

#: Columns of a measurement file. `runner` belongs to latency rows, `cores` to throughput rows; `family` may be left out.
COLUMNS = ("network", "what", "fps", "runner", "cores", "family")
#: Weight of staying at the constants one starts from, per relative change of one constant: what the measurements do not
#: determine keeps its value. 0.02 lets a constant double for an error of 2 % in one measurement.
PRIOR = 0.02
#: Relative error above which a measurement counts less (soft L1): one wrong row must not bend the fit.
OUTLIER = 0.03
_FPS_LIMIT = 1e6
_WHAT: Mapping[str, What] = {"latency": "latency", "throughput": "throughput"}
_RUNNERS: Mapping[str, Runner] = {"": "python", "python": "python", "cpp": "cpp"}
_FITTED = tuple(TimingConstants.model_fields)


@dataclass(frozen=True)
class MeasurementRow:
    """One measured figure: latency is one thread with one image in flight, throughput is all of `cores` busy."""

    network: str
    what: What
    fps: float
    runner: Runner = "python"
    cores: int | None = None  # None: as many as the board has
    family: str = ""


@dataclass(frozen=True)
class RowError:
    """How far the calibrated model is from one row: predicted time / measured time - 1."""

    row: MeasurementRow
    predicted_fps: float

    @property
    def relative(self) -> float:
        """Relative error of the time; positive: predicted too slow."""
        return self.row.fps / self.predicted_fps - 1.0


@dataclass(frozen=True)
class Calibration:
    """A profile fitted to measurements, and what it makes of each of them."""

    profile: BoardProfile
    errors: tuple[RowError, ...]
    #: The same rows, each predicted by a fit to the other networks: what to expect of a network that was not measured.
    held_out: tuple[RowError, ...] = ()
    #: How many constants the rows speak of; where they are fewer than these, the rest of the answer is the profile's own.
    constants: int = 0
    #: Constants that ended far from where they started, and how many times greater they are.
    moved: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_absolute_held_out(self) -> float | None:
        """Mean absolute relative error over the held-out predictions; None when there were none."""
        return float(np.mean([abs(error.relative) for error in self.held_out])) if self.held_out else None

    @property
    def mean_absolute(self) -> float:
        """Mean absolute relative error over all rows."""
        return float(np.mean([abs(error.relative) for error in self.errors]))


def read_measurements(path: Path) -> tuple[MeasurementRow, ...]:
    """The rows of a CSV file with the columns network, what, fps and optionally runner, cores, family.

    Raises MeasurementError naming the line for missing or impossible values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
            if missing:
                raise MeasurementError(
                    f"{path}: no column {missing[0]!r}; expected a header of {', '.join(COLUMNS[:3])} and, if you like, "
                    f"{', '.join(COLUMNS[3:])}, separated by commas (docs/calibrate.md)"
                )
            unknown = [name for name in reader.fieldnames or () if name not in COLUMNS]
            if unknown:
                raise MeasurementError(f"{path}: unknown column {unknown[0]!r}; expected {', '.join(COLUMNS)}")
            rows = _distinct(path, ((reader.line_num, _row(path, reader.line_num, record)) for record in reader))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MeasurementError(f"{path} cannot be read as CSV: {error}") from error
    if not rows:
        raise MeasurementError(f"{path} has no measurements below its header")
    return rows


def _distinct(path: Path, rows: Iterable[tuple[int, MeasurementRow]]) -> tuple[MeasurementRow, ...]:
    """The rows. Measuring again gives another figure: an equal one is the same line twice, and would count twice."""
    lines: dict[MeasurementRow, int] = {}
    for line, row in rows:
        if row in lines:
            raise MeasurementError(f"{path}, line {line}: the same measurement as line {lines[row]}; leave one of them out")
        lines[row] = line
    return tuple(lines)


def _row(path: Path, line: int, record: Mapping[str | None, str | None]) -> MeasurementRow:
    def value(name: str) -> str:
        return (record.get(name) or "").strip()

    def fail(message: str) -> MeasurementError:
        return MeasurementError(f"{path}, line {line}: {message}")

    if None in record:
        raise fail("more values than the header has columns")
    network = value("network")
    if not network:
        raise fail("no network")
    what, runner = _WHAT.get(value("what")), _RUNNERS.get(value("runner"))
    if what is None:
        raise fail(f"what is {value('what')!r}, expected 'latency' or 'throughput'")
    if runner is None:
        raise fail(f"runner is {value('runner')!r}, expected 'python' or 'cpp'")
    try:
        fps = float(value("fps"))
    except ValueError as error:
        raise fail(f"fps is {value('fps')!r}, expected a number") from error
    if not 0 < fps < _FPS_LIMIT:
        raise fail(f"fps is {fps:g}, expected more than 0 and less than {_FPS_LIMIT:g}")
    cores = value("cores")
    if cores and (not cores.isdecimal() or int(cores) < 1):
        raise fail(f"cores is {cores!r}, expected a whole number of at least 1")
    return MeasurementRow(network, what, fps, runner, int(cores) if cores else None, value("family"))


def calibrate_file(
    path: Path,
    profile: BoardProfile,
    *,
    name: str | None = None,
    find: Callable[[str, Path], Graph] | None = None,
    hold_out: bool = False,
    keep_unexplained: bool = False,
) -> Calibration:
    """Fit `profile` to a measurement file.

    Its networks are paths of .xmodel files, or of graphs as JSON, relative to the file; or what `find`, called with a name and
    the file's folder, makes of them. Raises MeasurementError as `calibrate` does.
    """
    rows = read_measurements(path)
    find = find or load_network
    graphs = {network: find(network, path.parent) for network in dict.fromkeys(row.network for row in rows)}
    return calibrate(rows, graphs, profile, name=name, hold_out=hold_out, keep_unexplained=keep_unexplained)


def load_network(network: str, folder: Path) -> Graph:
    """The network of an .xmodel, or of a graph as JSON; raises MeasurementError when there is none."""
    path = folder / network
    if not path.is_file():
        raise MeasurementError(
            f"network {network!r}: there is no file {path}; give the path of an .xmodel, relative to the CSV file"
        )
    from edgesearch.board_eval.graph import graph_from_json
    from edgesearch.board_eval.xmodel import read_xmodel

    try:
        if path.suffix == ".json":
            return graph_from_json(json.loads(path.read_text(encoding="utf-8")), {})
        return read_xmodel(path)
    except (EdgesearchError, ValueError) as error:
        raise MeasurementError(f"network {network!r}: {error}") from error


def calibrate(
    rows: Sequence[MeasurementRow],
    graphs: Mapping[str, Graph],
    profile: BoardProfile,
    *,
    name: str | None = None,
    hold_out: bool = False,
    keep_unexplained: bool = False,
) -> Calibration:
    """Fit the constants of `profile` to measurements.

    The DPU's constants, the time between jobs and the Python host are fitted together, to throughput rows of one core and
    latency rows of the Python runner; then the C++ host to the latency rows of the C++ runner, and the efficiency of several
    cores to the other throughput rows. What no row speaks of stays as it was. Families count by the root of their size. Raises
    MeasurementError for a network without a graph, for rows that cannot be true of this board, for too few of them, and, unless
    `keep_unexplained`, when the fitted profile does not explain them. `hold_out` fits once more without each network.
    """
    unknown = [row.network for row in rows if row.network not in graphs]
    if unknown:
        raise MeasurementError(f"measurement of {unknown[0]!r}: no such network was given")
    if not rows:
        raise MeasurementError("no measurements to fit; give at least one row")
    networks = {network: _Network.of(graphs[network], profile) for network in {row.network for row in rows}}
    check_rows(rows, {name: network.program for name, network in networks.items()}, profile)
    fitted = _fit(rows, networks, profile)
    origin = f"fitted to {len(rows)} measurements of {len(networks)} networks, starting from {profile.name}"
    fitted = fitted.model_copy(update={"name": name or profile.name, "origin": origin})
    errors = _errors(rows, networks, fitted)
    if not keep_unexplained:
        check_explained(errors, profile)
    held_out: list[RowError] = []
    for network in dict.fromkeys(row.network for row in rows) if hold_out else ():
        others = [row for row in rows if row.network != network]
        held_out += _errors([row for row in rows if row.network == network], networks, _fit(others, networks, profile))
    far = moved(_constants(fitted), _constants(profile))
    return Calibration(fitted, errors, tuple(held_out), _spoken_of(rows, networks, profile), far)


def _constants(profile: BoardProfile) -> dict[str, float]:
    """Every number that a fit may change, by the name that it has in a profile's file."""
    return {f"constants.{name}": float(getattr(profile.constants, name)) for name in _FITTED} | {
        "job_seconds": profile.job_seconds,
        "host_python.seconds": profile.host_python.seconds,
        "host_cpp.seconds": profile.host_cpp.seconds,
        "multi_core_efficiency": profile.multi_core_efficiency,
    }


def _spoken_of(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> int:
    """How many constants the rows have to do with."""
    alone = any(row.what == "throughput" and _cores(row, profile) == 1 for row in rows)
    python, cpp = (any(_is_latency(row, runner) for row in rows) for runner in ("python", "cpp"))
    sizes = {networks[row.network].pixels for row in rows if _is_latency(row, "cpp")}
    shared = any(row.what == "throughput" and _cores(row, profile) > 1 for row in rows)
    return (len(_FITTED) + 1) * (alone or python) + python + cpp * min(len(sizes), 2) + shared


def _fit(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> BoardProfile:
    fitted = _fit_dpu(rows, networks, profile)
    return _fit_cores(rows, networks, _fit_cpp_host(rows, networks, fitted))


def _errors(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> tuple[RowError, ...]:
    times = {network: networks[network].dpu_s(profile) for network in {row.network for row in rows}}
    return tuple(RowError(row, predict(row, times[row.network], networks[row.network].pixels, profile)) for row in rows)


@dataclass(frozen=True)
class _Network:
    program: Program
    pixels: int

    @classmethod
    def of(cls, graph: Graph, profile: BoardProfile) -> _Network:
        return cls(schedule(graph, profile.dpu), input_pixels(graph))

    def dpu_s(self, profile: BoardProfile) -> float:
        ends, _ = run(self.program, instruction_costs(self.program, profile.constants))
        return max(ends) * 1e-6 / profile.clock_mhz


def predict(row: MeasurementRow, dpu_s: float, pixels: int, profile: BoardProfile) -> float:
    """Frames per second of a row, from the DPU time of its network."""
    if row.what == "throughput":
        cores = profile.cores if row.cores is None else row.cores
        return throughput(dpu_s, profile.model_copy(update={"cores": cores}))
    host = profile.host_python if row.runner == "python" else profile.host_cpp
    return 1.0 / (dpu_s + profile.job_seconds + host.of(pixels))


def _cores(row: MeasurementRow, profile: BoardProfile) -> int:
    return profile.cores if row.cores is None else row.cores


def _fit_dpu(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> BoardProfile:
    used = [row for row in rows if (row.what == "throughput" and _cores(row, profile) == 1) or _is_latency(row, "python")]
    if not used:
        return profile
    weights = _family_weights(used)
    fits_host = any(_is_latency(row, "python") for row in used)
    start = np.array(
        [getattr(profile.constants, name) for name in _FITTED] + [profile.job_seconds, profile.host_python.seconds]
    )
    scale = np.maximum(start, [0.1] * len(_FITTED) + [1e-5, 1e-5])

    def at(u: npt.NDArray[np.float64]) -> BoardProfile:
        values = (u * scale).tolist()
        host = HostOverhead(seconds=values[-1] if fits_host else profile.host_python.seconds,
                            seconds_per_pixel=profile.host_python.seconds_per_pixel)  # fmt: skip
        constants = TimingConstants(**dict(zip(_FITTED, values, strict=False)))
        return profile.model_copy(update={"constants": constants, "job_seconds": values[-2], "host_python": host})

    def residuals(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        trial = at(u)
        times = {network: networks[network].dpu_s(trial) for network in {row.network for row in used}}
        errors = [math.log(row.fps / predict(row, times[row.network], networks[row.network].pixels, trial)) for row in used]
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


def _is_latency(row: MeasurementRow, runner: str) -> bool:
    return row.what == "latency" and row.runner == runner


def _family_weights(rows: Iterable[MeasurementRow]) -> npt.NDArray[np.float64]:
    families = [row.family or row.network for row in rows]
    return np.array([families.count(family) ** -0.5 for family in families])


def _fit_cpp_host(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> BoardProfile:
    """Fixed and per-pixel host time, never negative, by least squares of relative errors."""
    used = [row for row in rows if _is_latency(row, "cpp")]
    if not used:
        return profile
    from scipy.optimize import nnls

    seconds = np.array([1.0 / row.fps for row in used])
    rest = seconds - np.array([networks[row.network].dpu_s(profile) + profile.job_seconds for row in used])
    pixels = np.array([networks[row.network].pixels for row in used], dtype=np.float64)
    weights = _family_weights(used) / seconds
    terms = np.stack([np.ones(len(used)), pixels], axis=1) if len(set(pixels.tolist())) > 1 else np.ones((len(used), 1))
    if terms.shape[1] == 1:  # one image size: the slope stays as it was
        rest = rest - profile.host_cpp.seconds_per_pixel * pixels
    size = terms.max(axis=0)
    solution = nnls(terms / size * weights[:, None], rest * weights)[0] / size
    slope = float(solution[1]) if len(solution) > 1 else profile.host_cpp.seconds_per_pixel
    return profile.model_copy(update={"host_cpp": HostOverhead(seconds=float(solution[0]), seconds_per_pixel=slope)})


def _fit_cores(rows: Sequence[MeasurementRow], networks: Mapping[str, _Network], profile: BoardProfile) -> BoardProfile:
    ratios = []
    for row in rows:
        cores = _cores(row, profile)
        if row.what == "throughput" and cores > 1:
            alone = 1.0 / (networks[row.network].dpu_s(profile) + profile.job_seconds)
            ratios.append(row.fps / (cores * alone))
    if not ratios:
        return profile
    return profile.model_copy(update={"multi_core_efficiency": float(min(1.0, np.median(ratios)))})
