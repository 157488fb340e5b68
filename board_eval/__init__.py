"""The DPU's side: the graph, lowering from torch, integer execution, xmodel and ONNX files, schedule, timing and boards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesearch.board_eval._boards import Board, Measurement, SimulatedBoard
    from edgesearch.board_eval._calibrate import Calibration, calibrate_file
    from edgesearch.board_eval._execute import execute, execute_all, run_float
    from edgesearch.board_eval._graph import Graph, Node
    from edgesearch.board_eval._layer_report import LayerReport, layer_report
    from edgesearch.board_eval._lowering import lower, lower_with_sources
    from edgesearch.board_eval._onnx import write_onnx
    from edgesearch.board_eval._preflight import Finding, leaked_images, preflight
    from edgesearch.board_eval._schedule import check_fits, schedule
    from edgesearch.board_eval._serialise import graph_from_json, graph_to_json
    from edgesearch.board_eval._targets import BoardProfile, Dpu, load_profile
    from edgesearch.board_eval._timing import Timing, time_graph
    from edgesearch.board_eval._widths import pruned_estimate
    from edgesearch.board_eval._xmodel import read_xmodel, write_xmodel

__all__ = [
    "Board",
    "BoardProfile",
    "Calibration",
    "Dpu",
    "Finding",
    "Graph",
    "LayerReport",
    "Measurement",
    "Node",
    "SimulatedBoard",
    "Timing",
    "calibrate_file",
    "check_fits",
    "execute",
    "execute_all",
    "graph_from_json",
    "graph_to_json",
    "layer_report",
    "leaked_images",
    "load_profile",
    "lower",
    "lower_with_sources",
    "preflight",
    "pruned_estimate",
    "read_xmodel",
    "run_float",
    "schedule",
    "time_graph",
    "write_onnx",
    "write_xmodel",
]

#: Every name is loaded when first asked for: some of the modules behind them import torch or onnx.
_MODULES = {
    "Board": "_boards",
    "BoardProfile": "_targets",
    "Calibration": "_calibrate",
    "Dpu": "_targets",
    "Finding": "_preflight",
    "Graph": "_graph",
    "LayerReport": "_layer_report",
    "Measurement": "_boards",
    "Node": "_graph",
    "SimulatedBoard": "_boards",
    "Timing": "_timing",
    "calibrate_file": "_calibrate",
    "check_fits": "_schedule",
    "execute": "_execute",
    "execute_all": "_execute",
    "graph_from_json": "_serialise",
    "graph_to_json": "_serialise",
    "layer_report": "_layer_report",
    "load_profile": "_targets",
    "lower": "_lowering",
    "lower_with_sources": "_lowering",
    "leaked_images": "_preflight",
    "preflight": "_preflight",
    "pruned_estimate": "_widths",
    "read_xmodel": "_xmodel",
    "run_float": "_execute",
    "schedule": "_schedule",
    "time_graph": "_timing",
    "write_onnx": "_onnx",
    "write_xmodel": "_xmodel",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
