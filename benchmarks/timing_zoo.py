"""AMD's Model Zoo against the timing model, in sample and with one family left out of the fit, beside a model linear in MACs.

DPU only: one core kept busy (KV260, many threads). End to end: one thread, C++ runner, ZCU104.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from _published import measurements, zoo_fps
from _report import REFERENCE_DATA, finish
from _zoo import PARTLY_ON_CPU, ZOO
from make_profiles import start_profile
from scipy.stats import spearmanr

from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import BoardProfile, load_profile
from edgesearch.board_eval.timing import calibrate, time_graph


def errors(profile: BoardProfile, graphs: dict[str, Graph]) -> dict[str, tuple[float, float]]:
    """Network -> error of the DPU's time, error of the end-to-end time, in percent."""
    published = zoo_fps()
    out = {}
    for name, graph in graphs.items():
        timing = time_graph(graph, profile, runner="cpp", layers=False)
        busy = timing.dpu_s + profile.job_seconds
        dpu, alone = published[name, "KV260"][1], published[name, "ZCU104"][0]
        out[name] = (100 * (busy * dpu - 1), 100 * (timing.latency_s * alone - 1))
    return out


def distinct(graphs: dict[str, Graph], seconds: dict[str, float]) -> list[float]:
    """Seconds of networks that differ in more than their classes; copies from several frameworks count as one, their mean."""
    copies: dict[tuple[object, ...], list[float]] = {}
    for name, graph in graphs.items():
        layers = tuple((type(node).__name__, node.shape) for node in graph.nodes[:-1])
        copies.setdefault(layers, []).append(seconds[name])
    return [float(np.mean(times)) for times in copies.values()]


def left_out(graphs: dict[str, Graph]) -> dict[str, tuple[float, float]]:
    """The same errors, every family predicted by constants fitted without it."""
    out = {}
    for family in sorted({family for family, _ in ZOO.values()}):
        rows, fitted = measurements("ZCU104", without=family)
        profile = calibrate(rows, fitted, start_profile(2)).profile
        out.update(errors(profile, {name: graph for name, graph in graphs.items() if ZOO[name][0] == family}))
    return out


def linear_in_macs(graphs: dict[str, Graph]) -> npt.NDArray[np.float64]:
    """Errors in percent of the best a + b * MACs, in relative least squares, on the same networks."""
    published = zoo_fps()
    seconds = np.array([1 / published[name, "KV260"][1] for name in graphs])
    terms = np.stack([np.ones(len(graphs)), [graph.macs / 1e9 for graph in graphs.values()]], axis=1) / seconds[:, None]
    found = np.linalg.lstsq(terms, np.ones(len(graphs)), rcond=None)[0]
    return np.asarray(100 * (terms @ found - 1))


def main() -> None:
    if not REFERENCE_DATA.is_dir():
        sys.exit(f"no reference data at {REFERENCE_DATA}; set EDGESEARCH_REFERENCE_DATA")
    profile, published = load_profile("zcu104"), zoo_fps()
    graphs = {name: build(name) for name, (_, build) in ZOO.items()}
    inside, outside, macs = errors(profile, graphs), left_out(graphs), linear_in_macs(graphs)
    print(f"{'network':58s} {'DPU':>7s} {'left out':>9s} {'end to end':>11s} {'left out':>9s} {'MACs only':>10s}   (%)")
    for name in sorted(graphs, key=lambda n: (ZOO[n][0], n)):
        (dpu, e2e), (dpu_out, e2e_out), flops = inside[name], outside[name], macs[list(graphs).index(name)]
        print(f"{name:58s} {dpu:+7.2f} {dpu_out:+9.2f} {e2e:+11.2f} {e2e_out:+9.2f} {flops:+10.2f}")
    for name in PARTLY_ON_CPU:
        print(f"{name:58s} not predicted: squeeze-and-excitation and swish are not all on the DPU")
    dpu, e2e = (np.abs([pair[i] for pair in inside.values()]) for i in (0, 1))
    dpu_out, e2e_out = (np.abs([pair[i] for pair in outside.values()]) for i in (0, 1))
    predicted = {name: time_graph(graph, profile, layers=False).dpu_s for name, graph in graphs.items()}
    measured = {name: 1 / published[name, "KV260"][1] for name in graphs}
    rank = spearmanr(list(predicted.values()), list(measured.values())).statistic
    rank_distinct = spearmanr(distinct(graphs, predicted), distinct(graphs, measured)).statistic
    figures = {
        "networks": float(len(graphs)),
        "dpu_mean_abs_pct": dpu.mean(),
        "dpu_max_abs_pct": dpu.max(),
        "dpu_spearman": rank,
        "dpu_spearman_distinct": rank_distinct,
        "e2e_mean_abs_pct": e2e.mean(),
        "e2e_max_abs_pct": e2e.max(),
        "left_out_dpu_mean_abs_pct": dpu_out.mean(),
        "left_out_dpu_max_abs_pct": dpu_out.max(),
        "left_out_e2e_mean_abs_pct": e2e_out.mean(),
        "flops_linear_mean_abs_pct": np.abs(macs).mean(),
        "flops_linear_max_abs_pct": np.abs(macs).max(),
    }
    finish({"benchmark": "timing_zoo", **{key: round(float(value), 4) for key, value in figures.items()}})


if __name__ == "__main__":
    main()
