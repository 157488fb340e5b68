"""How fast a network is on a board: by the code that this program makes of it, or by a model of AMD's compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, TypeAlias, get_args

from edgesearch.board_eval.compiler import Compiled, Feature, Options, compile_graph
from edgesearch.board_eval.graph import Graph, Node, check_is_graph, without_weights
from edgesearch.board_eval.targets import BoardProfile, check_profile
from edgesearch.board_eval.timing import LayerReport, Timing, layer_report, report_on, time_graph
from edgesearch.errors import CompileError, SettingsError

__all__ = ["Compiler", "board_report", "board_timing", "check_compiler"]

#: What makes the code: this program's own compiler, or vai_c_xir of Vitis AI 3.5, whose code `time_graph` foretells.
Compiler: TypeAlias = Literal["edgesearch", "vai"]

#: Where the code keeps feature maps that are not on the chip.
_WORKSPACE = 1


def check_compiler(compiler: object) -> None:
    """Raise SettingsError for what is no name of a compiler."""
    if compiler not in get_args(Compiler):
        raise SettingsError(f"compiler is {compiler!r}, expected {' or '.join(map(repr, get_args(Compiler)))}")


def board_timing(
    graph: Graph,
    profile: BoardProfile,
    *,
    compiler: Compiler = "edgesearch",
    allow: Collection[Feature] = (),
    runner: str | None = None,
    layers: bool = True,
) -> Timing:
    """The time of a network on a board, fed by one of its runners (None: its default). Weights are not needed.

    "edgesearch": of its own code, instruction by instruction, which may use the features in `allow`. Raises GraphError when the
    DPU cannot hold the network, CompileError when it cannot be compiled, TargetError for a runner that no profile has,
    SettingsError for another `compiler`. `layers=False` leaves out the table by layer.
    """
    check_is_graph(graph)
    check_profile(profile)
    check_compiler(compiler)
    if compiler == "vai":
        return time_graph(graph, profile, runner=runner, layers=layers)
    profile.runner(runner)
    return _compiled(graph, profile, allow).time(profile, runner=runner, layers=layers)


def board_report(
    graph: Graph,
    profile: BoardProfile,
    *,
    compiler: Compiler = "edgesearch",
    allow: Collection[Feature] = (),
    runner: str | None = None,
) -> LayerReport:
    """The time of a network by layer, and what would help; parameters and errors are those of `board_timing`."""
    check_is_graph(graph)
    check_profile(profile)
    check_compiler(compiler)
    if compiler == "vai":
        return layer_report(graph, profile, runner=runner)
    profile.runner(runner)
    compiled = _compiled(graph, profile, allow)
    plan = compiled.plan
    outside = {name for name, place in plan.external.items() if place.register == _WORKSPACE}
    timing = compiled.time(profile, runner=runner)
    return report_on(plan.graph, timing, [layer.layer for layer in plan.layers], outside - plan.never_on_chip, profile)


def _compiled(graph: Graph, profile: BoardProfile, allow: Collection[Feature]) -> Compiled:
    """The code of a network, which nobody runs where it is no 8-bit one: then its shapes alone are compiled."""
    runs = graph.quantized and graph.bits == 8
    try:
        return compile_graph(graph if runs else _shapes(graph), profile.dpu, Options(allow=frozenset(allow)))
    except CompileError as error:
        raise CompileError(f"{error}; compiler = 'vai' leaves the network to Vitis AI's compiler") from error


def _shapes(graph: Graph) -> Graph:
    def plain(node: Node) -> Node:
        numbers: dict[str, Any] = {name: None for name in ("fix", "weight_fix", "bias_fix") if hasattr(node, name)}
        return dataclasses.replace(node, **numbers)

    return Graph(graph.name, without_weights(graph).map(plain).nodes)
