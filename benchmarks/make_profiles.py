"""Fit the shipped board profiles to published figures and write them.

The DPU's constants are fitted once, to networks alone on one core: AMD's Model Zoo (KV260, many threads), every eighth network
of Accel-NASBench (ZCU102, one thread, Python) and two rows of Table I of the thesis (ZCU104, one thread, its script). Then
every board and runner has its own host time and contention, fitted to its own figures. The intervals are those that hold 90 %
of what families of networks took that were left out of all this (`_left_out.py`).

Usage: python benchmarks/make_profiles.py [FOLDER]; without a folder it only prints what it would write.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import _left_out
import numpy as np
import numpy.typing as npt
from _nasbench import nasbench, nasbench_graph
from _published import FITTED_ROWS, measurements, table_one, zoo_fps
from _report import finish
from _zoo import ZOO
from scipy.optimize import least_squares

from edgesearch.board_eval.targets import BoardProfile, Contention, HostRunner, TimingConstants, load_dpu
from edgesearch.board_eval.timing import MeasurementRow
from edgesearch.board_eval.timing._fit_host import fit_contention, fit_host
from edgesearch.board_eval.timing._predicted import Foretold
from edgesearch.board_eval.timing._schedule import Program, schedule
from edgesearch.board_eval.timing._timing import instruction_costs, run

B4096 = load_dpu("B4096")
#: Where the fit starts. What is not in FITTED stays: a CONV costs its cycles and nothing more, a window of the ALU one cycle
#: per element, and no LOAD is faster than a core's two memory ports of 16 bytes. SAVEs cost nothing: they go in pairs to two
#: ports beside the other engines. (A fit that may change them finds less than a cycle for SAVEs, and bytes that never count
#: beside words: 0.63 cycles for each word of 16 bytes is the memory's rate.)
START = TimingConstants(
    load=22.0, load_word=0.6, load_bytes_per_cycle=32.0, save=0.0, save_word=0.0, conv=0.0, alu=100.0, alu_step=1.0,
    elew=0.0, elew_step=2.0,
)  # fmt: skip
FITTED = ("load", "load_word", "alu", "elew_step")
#: Hosts that the latencies contain: Accel-NASBench's, the thesis's script, and what a core loses between jobs.
HOSTS = {"nasbench": 370e-6, "thesis": 1040e-6, "job": 130e-6}
NASBENCH_EVERY = 8
#: Clocks in MHz, cores.
BOARDS = {"zcu104": ("ZCU104", 300.0, 2), "kv260": ("KV260", 300.0, 1), "zcu102": ("ZCU102", 281.0, 3)}
#: The smallest network of the zoo.
SMALLEST = "tf_mobilenetv1_0.25_imagenet_128_128_27M"
ORIGIN = (
    "DPU: benchmarks/make_profiles.py, fitted to AMD's Model Zoo 3.0 (22 unpruned classification networks on one core), every"
    " eighth network of nasbench_zcu102.csv and two rows of Table I of the thesis (ResNet-50, and pruned by 95 %)"
)
ORIGINS = {
    "cpp": "AMD's Model Zoo 3.0 on this board: C++, pre- and post-processing on the CPU",
    "vart_python": "Accel-NASBench and AMD's CIFAR-10 tutorials on a ZCU102: Python, VART, images in memory",
    "thesis_script": "Table I of the thesis on a ZCU104: a Python script, one thread; several threads were not measured",
}


@dataclass(frozen=True)
class Alone:
    """A network alone on one core: the time that was measured, what it contains beside the DPU, the clock, the weight."""

    program: Program
    seconds: float
    host: str
    clock_mhz: float
    weight: float
    family: str


def alone() -> list[Alone]:
    """Everything the DPU's constants are fitted to; a family weighs as the root of its size."""
    published, table = zoo_fps(), table_one()
    families = Counter(family for family, _ in ZOO.values())
    rows = [
        Alone(schedule(build(name), B4096), 1 / published[name, "KV260"][1], "job", 300.0, families[family] ** -0.5, family)
        for name, (family, build) in ZOO.items()
    ]
    rows += [Alone(schedule(table[name][0], B4096), 1 / table[name][1], "thesis", 300.0, 1.0, "thesis") for name in FITTED_ROWS]
    chosen = nasbench()[::NASBENCH_EVERY]
    weight = 2 * len(chosen) ** -0.5
    rows += [
        Alone(schedule(nasbench_graph(row), B4096), 1e-3 * float(row["latency_ms"]), "nasbench", 281.0, weight, "nasbench")
        for row in chosen
    ]
    return rows


def fit(rows: list[Alone]) -> tuple[TimingConstants, dict[str, float]]:
    """The DPU's constants and the hosts, by relative least squares with soft outliers."""
    start = np.array([*(getattr(START, name) for name in FITTED), *HOSTS.values()])
    weights = np.array([row.weight for row in rows])

    def at(values: npt.NDArray[np.float64]) -> tuple[TimingConstants, dict[str, float]]:
        found = dict(zip((*FITTED, *HOSTS), (values * start).tolist(), strict=True))
        return START.model_copy(update={name: found[name] for name in FITTED}), {name: found[name] for name in HOSTS}

    def residuals(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        constants, hosts = at(values)
        out = []
        for row in rows:
            ends, _ = run(row.program, instruction_costs(row.program, constants))
            extra = hosts["job"] + hosts["thesis"] if row.host == "thesis" else hosts[row.host]
            out.append((max(ends) * 1e-6 / row.clock_mhz + extra) / row.seconds - 1)
        return weights * np.array(out)

    found = least_squares(
        residuals, np.ones(len(start)), bounds=(1e-3, 10), loss="soft_l1", f_scale=0.03, diff_step=1e-3, max_nfev=12
    )
    return at(found.x)


def profile(name: str, constants: TimingConstants, hosts: dict[str, float], *, without: str = "") -> BoardProfile:
    """One board: the shared constants, and its runners fitted to its own figures, but those of one family; no intervals yet."""
    board, clock, cores = BOARDS[name]
    job = hosts["job"]
    # Python: the fixed part of AMD's CIFAR-10 tutorials on a ZCU102 (32 x 32 pixels, images in memory) and Accel-NASBench's
    # at 224 x 224 decide the part that grows with the image. The interpreter does the fixed part for one thread at a time; no
    # published figure is near that bound. The thesis's script hands its images over like them; all else it does is fixed.
    tutorials = 0.27e-3
    slope = max(0.0, hosts["nasbench"] - tutorials) / (224**2 - 32**2)
    fixed = max(0.0, tutorials - job - slope * 32**2)
    python = HostRunner(seconds=fixed, seconds_per_pixel=slope, serial_seconds=fixed, threads=5)
    whole = hosts["thesis"]
    thesis = HostRunner(seconds=whole - slope * 224**2, seconds_per_pixel=slope, serial_seconds=whole, threads=1)
    base = BoardProfile(
        name=name, dpu=B4096, cores=cores, clock_mhz=clock, constants=constants, job_seconds=job,
        runners={"vart_python": python, "cpp": HostRunner(seconds=2e-4), "thesis_script": thesis},
        default_runner="vart_python",
    )  # fmt: skip
    rows, graphs = measurements(board, without=without)
    networks = {network: Foretold.of(graph, base) for network, graph in graphs.items()}
    # The smallest network is left to the serial part, below: the host bounds it.
    own = [row for row in rows if row.runner == "cpp" and row.cores is None and row.network != SMALLEST]
    runners = dict(fit_contention(own, networks, fit_host(own, networks, base, "cpp"), "cpp").runners)
    # The memory is the board's, and so is what AMD's programs lose by it; what Python loses beside that is known of a ZCU102.
    memory, python_adds = memory_of(base, without=without), python_beside_cpp(base, without=without)
    runners["cpp"] = runners["cpp"].model_copy(update={"contention": memory})
    for runner in ("vart_python", "thesis_script"):
        runners[runner] = runners[runner].model_copy(update={"contention": added(memory, python_adds)})
    for runner, origin in ORIGINS.items():
        runners[runner] = runners[runner].model_copy(update={"origin": origin})
    if ZOO[SMALLEST][0] != without:
        # Three cores would do 6,000 of the smallest network's images a second: what they did is the host's bound.
        serial = 1 / zoo_fps()[SMALLEST, "ZCU102"][1]
        runners["cpp"] = runners["cpp"].model_copy(update={"serial_seconds": serial})
    return base.model_copy(update={"runners": runners, "origin": ORIGIN})


def memory_of(base: BoardProfile, *, without: str) -> Contention:
    """What cores lose to each other with AMD's programs, on this board; one core tells nothing, and has a ZCU104's memory."""
    board = base.name if base.cores > 1 else "zcu104"
    return cpp_contention(base, board, without)


def python_beside_cpp(base: BoardProfile, *, without: str) -> Contention:
    """What Accel-NASBench's runner loses beyond AMD's programs on three cores of a ZCU102."""
    python, cpp = contention_of_python(base), cpp_contention(base, "zcu102", without)
    return Contention(**{part: max(0.0, getattr(python, part) - getattr(cpp, part)) for part in Contention.model_fields})


def added(one: Contention, other: Contention) -> Contention:
    """Both together."""
    return Contention(**{part: getattr(one, part) + getattr(other, part) for part in Contention.model_fields})


def cpp_contention(base: BoardProfile, name: str, without: str) -> Contention:
    """That of the model zoo on a board, with the DPU's constants of `base`."""
    board, clock, cores = BOARDS[name]
    here = base.model_copy(update={"name": name, "cores": cores, "clock_mhz": clock})
    rows, graphs = measurements(board, without=without)
    own = [row for row in rows if row.runner == "cpp" and row.cores is None and row.network != SMALLEST]
    networks = {network: Foretold.of(graph, here) for network, graph in graphs.items()}
    return fit_contention(own, networks, fit_host(own, networks, here, "cpp"), "cpp").runners["cpp"].contention


def contention_of_python(base: BoardProfile) -> Contention:
    """That of Accel-NASBench's runner, three cores of a ZCU102."""
    zcu102 = base.model_copy(update={"cores": 3, "clock_mhz": 281.0})
    chosen = nasbench()[::NASBENCH_EVERY]
    rows = [MeasurementRow(row["network"], "throughput", float(row["throughput_fps"])) for row in chosen]
    networks = {row["network"]: Foretold.of(nasbench_graph(row), zcu102) for row in chosen}
    return fit_contention(rows, networks, zcu102, "vart_python").runners["vart_python"].contention


def start_profile(cores: int) -> BoardProfile:
    """What a fit to the zoo alone starts from."""
    runners = {"cpp": HostRunner(seconds=2e-4), "thesis_script": HostRunner(seconds=HOSTS["thesis"])}
    return BoardProfile(
        name="start", dpu=B4096, cores=cores, clock_mhz=300.0, constants=START, job_seconds=HOSTS["job"], runners=runners,
        default_runner="thesis_script",
    )  # fmt: skip


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def without_nasbench(rows: list[Alone]) -> BoardProfile:
    """A ZCU102 whose DPU was fitted without Accel-NASBench; its runner adds the median of what its networks took more."""
    constants, hosts = fit([row for row in rows if row.host != "nasbench"])
    more = []
    for row in (row for row in rows if row.host == "nasbench"):
        ends, _ = run(row.program, instruction_costs(row.program, constants))
        more.append(row.seconds - max(ends) * 1e-6 / row.clock_mhz)
    return profile("zcu102", constants, hosts | {"nasbench": float(np.median(more))})


def left_out(rows: list[Alone], zcu102: BoardProfile, zcu104: BoardProfile) -> list[_left_out.LeftOut]:
    """Errors of what nothing was fitted to; the two profiles are fitted to all `rows`."""
    without = {}
    for family in sorted({family for family, _ in ZOO.values()}):
        constants, hosts = fit([row for row in rows if row.family != family])
        without |= {(board, family): profile(board, constants, hosts, without=family) for board in BOARDS}
    return [
        *_left_out.of_zoo(without),
        *_left_out.of_nasbench(without_nasbench(rows), NASBENCH_EVERY),
        *_left_out.of_another_runner(zcu102, NASBENCH_EVERY),
        *_left_out.of_table_one(zcu104),
    ]


def with_intervals(board: BoardProfile, errors: list[_left_out.LeftOut]) -> BoardProfile:
    """The profile with its tables of half widths; what is of no kind in them gets the widest."""
    runners = {}
    for name, host in board.runners.items():
        table = _left_out.widths(errors, board, name)
        update = {
            "errors_by_kind": table,
            "latency_error": max(widths.latency for widths in table.values()),
            "throughput_error": max(widths.throughput for widths in table.values()),
        }
        runners[name] = host.model_copy(update=update)
    return board.model_copy(update={"runners": runners})


def ultra96(kv260: BoardProfile) -> BoardProfile:
    """An Ultra96: timed as a KV260 with a B1600 would be. Only files of 2019 were measured on it: nothing is fitted."""
    origin = f"{kv260.origin}; the DPU's size and clock are the Ultra96's, its memory and host are taken for a KV260's"
    return kv260.model_copy(update={"name": "ultra96", "dpu": load_dpu("B1600"), "clock_mhz": 287.0, "origin": origin})


def main() -> None:
    rows = alone()
    fitted = fit(rows)
    profiles = {name: profile(name, *fitted) for name in BOARDS}
    errors = left_out(rows, profiles["zcu102"], profiles["zcu104"])
    shipped = {name: with_intervals(found, errors) for name, found in profiles.items()}
    shipped["ultra96"] = ultra96(shipped["kv260"])
    for name, found in shipped.items():
        clean = BoardProfile.model_validate(rounded(found.model_dump()))
        print(clean.to_json())
        if len(sys.argv) > 1:
            (Path(sys.argv[1]) / f"{name}.json").write_text(clean.to_json())
    finish({"profiles": sorted(shipped)})


if __name__ == "__main__":
    main()
