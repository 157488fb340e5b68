"""The shipped boards and runners against what was measured on them: one thread, many threads, and how sure the profiles are.

Accel-NASBench (ZCU102, Python, one and five threads; every eighth network was used in the fit), AMD's Model Zoo 3.0 with many
threads (C++), AMD's CIFAR-10 tutorials (ZCU102, Python, one and five threads), a B1600 (Ultra96, files of 2019) beside the same
networks and tools on a B4096. Errors are of the time, in percent. Coverage is the share of measurements inside intervals that
are meant to hold 90 %; "left out": families that neither constants nor widths had seen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
from _left_out import coverage
from _nasbench import TUTORIALS, nasbench, nasbench_graph, tutorial
from _published import FITTED_ROWS, table_one, ultra96_fps, zoo_fps
from _report import REFERENCE_DATA, finish
from _zoo import ULTRA96, ZOO
from make_profiles import NASBENCH_EVERY, alone, left_out
from scipy.stats import spearmanr

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing import Timing, time_graph


def timed(graph: Graph, board: str, runner: str) -> Timing:
    return time_graph(graph, load_profile(board), runner=runner, layers=False)


class Rows:
    """Errors of the time in percent, and whether each lies in its interval."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.inside: dict[str, bool] = {}

    def add(self, name: str, measured: float, predicted: float, interval: tuple[float, float]) -> None:
        self.errors[name] = 100 * (measured / predicted - 1)
        self.inside[name] = interval[0] <= measured <= interval[1]

    def latency(self, name: str, fps: float, timing: Timing) -> None:
        self.add(name, fps, timing.latency_fps, timing.latency_fps_interval)

    def throughput(self, name: str, fps: float, timing: Timing) -> None:
        self.add(name, fps, timing.throughput_fps, timing.throughput_fps_interval)

    def figures(self, key: str) -> dict[str, float]:
        absolute = np.abs(list(self.errors.values()))
        return {f"{key}_mean_pct": float(absolute.mean()), f"{key}_max_pct": float(absolute.max())}

    def coverage(self) -> float:
        return 100 * float(np.mean(list(self.inside.values())))


def accel_nasbench() -> dict[str, float]:
    latency, throughput, unseen_latency, unseen_throughput = Rows(), Rows(), Rows(), Rows()
    predicted, measured = [], []
    for i, row in enumerate(nasbench()):
        timing = timed(nasbench_graph(row), "zcu102", "vart_python")
        one, many = 1e3 / float(row["latency_ms"]), float(row["throughput_fps"])
        predicted.append(timing.latency_s)
        measured.append(1 / one)
        latency.latency(row["network"], one, timing)
        throughput.throughput(row["network"], many, timing)
        if i % NASBENCH_EVERY:
            unseen_latency.latency(row["network"], one, timing)
            unseen_throughput.throughput(row["network"], many, timing)
    print(f"{len(predicted)} networks of Accel-NASBench")
    return {
        **latency.figures("nasbench_latency"),
        "nasbench_spearman": float(spearmanr(predicted, measured).statistic),
        **throughput.figures("nasbench_throughput"),
        "nasbench_latency_unseen_coverage_pct": unseen_latency.coverage(),
        "nasbench_throughput_unseen_coverage_pct": unseen_throughput.coverage(),
    }


def model_zoo() -> dict[str, float]:
    published = zoo_fps()
    graphs = {name: build(name) for name, (_, build) in ZOO.items()}
    out: dict[str, float] = {}
    every = Rows()
    errors: dict[str, Mapping[str, float]] = {}
    for board in ("zcu104", "zcu102", "kv260"):
        rows = Rows()
        for name, graph in graphs.items():
            one, many = published[name, board.upper()]
            timing = timed(graph, board, "cpp")
            rows.throughput(name, many, timing)
            every.throughput(f"{board} {name}", many, timing)
            every.latency(f"{board} {name}, one thread", one, timing)
        errors[board] = rows.errors
        out |= rows.figures(f"{board}_multi")
    print(f"{'many threads':58s} " + " ".join(f"{board:>8s}" for board in errors) + "  (error of the time, %)")
    for name in graphs:
        print(f"{name:58s} " + " ".join(f"{errors[board][name]:+8.2f}" for board in errors))
    return out | {"zoo_coverage_pct": every.coverage()}


def tutorials() -> dict[str, float]:
    one, many = Rows(), Rows()
    for name, (single, together) in TUTORIALS.items():
        timing = timed(tutorial(name), "zcu102", "vart_python")
        one.latency(name, single, timing)
        many.throughput(name, together, timing)
        print(f"{name}: one thread {one.errors[name]:+.1f} %, five {many.errors[name]:+.1f} % ({timing.throughput_bound})")
    largest = [max(abs(e) for e in rows.errors.values()) for rows in (one, many)]
    return {"tutorials_max_pct": largest[0], "tutorials_5_threads_max_pct": largest[1]}


def ultra96() -> dict[str, float]:
    """Eight networks on a B1600, and the same on a B4096, both with the clock and the tools of Vitis AI 1.0."""
    boards = {"Ultra96": load_profile("ultra96"), "ZCU102": load_profile("zcu102").model_copy(update={"clock_mhz": 287.0})}
    slower: dict[str, Rows] = {board: Rows() for board in boards}
    for board, profile in boards.items():
        for name, (one, _) in ultra96_fps(board).items():
            slower[board].latency(name, one, time_graph(ULTRA96[name](name), profile, runner="cpp", layers=False))
    print(f"{'one thread, Vitis AI 1.0':58s}    B1600    B4096  (error of the time, %)")
    for name in ULTRA96:
        print(f"{name:58s} {slower['Ultra96'].errors[name]:+8.2f} {slower['ZCU102'].errors[name]:+8.2f}")
    means = {board: float(np.mean(list(rows.errors.values()))) for board, rows in slower.items()}
    return {
        "b1600_2019_error_pct": means["Ultra96"],
        "b4096_2019_error_pct": means["ZCU102"],
        "b1600_2019_coverage_pct": slower["Ultra96"].coverage(),
    }


def families() -> dict[str, float]:
    """What intervals of families hold that neither the constants nor the widths were taken from."""
    errors = left_out(alone(), load_profile("zcu102"), load_profile("zcu104"))
    nasbench = [e for e in errors if e.runner == "vart_python"][::10]
    zoo = [e for e in errors if e.runner == "cpp"]
    return {
        "left_out_zoo_latency_coverage_pct": coverage(errors, [e for e in zoo if e.what == "latency"]),
        "left_out_zoo_throughput_coverage_pct": coverage(errors, [e for e in zoo if e.what == "throughput"]),
        "left_out_nasbench_coverage_pct": coverage(errors, nasbench),
        "left_out_coverage_pct": coverage(errors, zoo + [e for e in errors if e.runner == "thesis_script"]),
    }


def thesis() -> dict[str, float]:
    rows = Rows()
    for name, (graph, fps) in table_one().items():
        if name not in FITTED_ROWS and not name.startswith("ResNet-50 QAT"):
            rows.latency(name, fps, timed(graph, "zcu104", "thesis_script"))
    return {"thesis_unseen_coverage_pct": rows.coverage()}


def main() -> None:
    if not REFERENCE_DATA.is_dir():
        sys.exit(f"no reference data at {REFERENCE_DATA}; set EDGESEARCH_REFERENCE_DATA")
    figures = {**accel_nasbench(), **model_zoo(), **tutorials(), **thesis(), **ultra96(), **families()}
    finish({"benchmark": "timing_boards", **{key: round(value, 4) for key, value in figures.items()}})


if __name__ == "__main__":
    main()
