"""Measurements of a few networks, as a board would give them whose profile is known."""

from __future__ import annotations

from edgesearch.board_eval.graph._graph import Graph
from edgesearch.board_eval.targets import BoardProfile, load_profile
from edgesearch.board_eval.timing._measurements import MeasurementRow
from edgesearch.board_eval.timing._predicted import with_runner
from edgesearch.board_eval.timing._timing import time_graph

from .._networks import residual_net

PROFILE = load_profile("zcu104")


def networks() -> dict[str, Graph]:
    sizes = ((16, (16, 32, 48)), (64, (32, 64, 128)), (32, (128, 256, 256)), (112, (32, 48, 64)), (96, (64, 64, 256)))
    return {f"net{i}": residual_net(size, widths) for i, (size, widths) in enumerate(sizes)}


def truth() -> BoardProfile:
    constants = PROFILE.constants.model_copy(update={"load": 45.0, "load_bytes_per_cycle": 18.0})
    board = PROFILE.model_copy(update={"constants": constants, "job_seconds": 2e-4})
    shared = PROFILE.runner("cpp").contention.model_copy(update={"fixed": 0.25})
    board = with_runner(board, "cpp", seconds=3e-4, seconds_per_pixel=1e-8, contention=shared)
    return with_runner(board, "vart_python", seconds=5e-4)


def measured(profile: BoardProfile) -> list[MeasurementRow]:
    rows = []
    for name, graph in networks().items():
        alone = time_graph(graph, profile.model_copy(update={"cores": 1}))
        rows.append(MeasurementRow(name, "throughput", alone.throughput_fps, cores=1))
        rows.append(MeasurementRow(name, "throughput", time_graph(graph, profile, runner="cpp").throughput_fps, runner="cpp"))
        rows.append(MeasurementRow(name, "latency", alone.latency_fps, runner="vart_python"))
        rows.append(MeasurementRow(name, "latency", time_graph(graph, profile, runner="cpp").latency_fps, runner="cpp"))
    return rows
