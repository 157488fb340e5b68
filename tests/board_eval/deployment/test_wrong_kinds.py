"""What is given in the place of a graph, a DPU, a profile or a path is named, with what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgesearch.board_eval import (
    Options,
    append_measurements,
    appendable_columns,
    calibrate_file,
    compile_graph,
    compile_xmodel,
    execute,
    load_profile,
    lower,
    preflight,
    pruned_estimate,
    read_xmodel,
    schedule,
    time_graph,
    write_onnx,
    write_xmodel,
)
from edgesearch.errors import EdgesearchError
from edgesearch.objectives import quantize

NETWORK: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
GRAPH = lower(NETWORK, (3, 8, 8))
DPU = load_profile("zcu104").dpu
NOTHING: Any = None
NAME: Any = "zcu104"


@pytest.mark.parametrize(
    "use",
    [
        lambda: write_xmodel(NETWORK, "x.xmodel"),
        lambda: write_onnx(NETWORK, "x.onnx"),
        lambda: compile_graph(NETWORK, DPU),
        lambda: compile_xmodel(NETWORK, DPU),
        lambda: preflight(NETWORK),
        lambda: pruned_estimate(NETWORK, 0.5),
        lambda: schedule(NETWORK, DPU),
        lambda: execute(NETWORK, np.zeros((1, 8, 8, 3), np.float32)),
    ],
)
def test_a_torch_network_is_no_graph(use: Callable[[], object]) -> None:
    with pytest.raises(EdgesearchError, match="the network is of type Sequential, expected a Graph, as `lower` makes"):
        use()


@pytest.mark.parametrize(
    "use",
    [
        lambda: compile_graph(GRAPH, NAME),
        lambda: compile_xmodel(GRAPH, NAME),
        lambda: preflight(GRAPH, target=NAME),
        lambda: schedule(GRAPH, NAME),
    ],
)
def test_a_boards_name_is_no_target(use: Callable[[], object]) -> None:
    with pytest.raises(EdgesearchError, match="the target is 'zcu104', expected a Target, such as find_target"):
        use()


@pytest.mark.parametrize("use", [lambda: time_graph(GRAPH, NAME), lambda: calibrate_file("x.csv", NAME)])
def test_a_boards_name_is_no_profile(use: Callable[[], object]) -> None:
    with pytest.raises(EdgesearchError, match="the profile is of type str, expected the BoardProfile of `load_profile`"):
        use()


@pytest.mark.parametrize(
    "use", [lambda: read_xmodel(NOTHING), lambda: write_xmodel(GRAPH, NOTHING), lambda: load_profile(NOTHING)]
)
def test_nothing_is_no_path(use: Callable[[], object]) -> None:
    with pytest.raises(EdgesearchError, match="is of type NoneType, expected a path"):
        use()


def test_measurements_are_appended_to_a_path_in_text(tmp_path: Path) -> None:
    append_measurements(str(tmp_path / "measured.csv"), [])
    assert appendable_columns(str(tmp_path / "measured.csv")) == appendable_columns(tmp_path / "measured.csv")


def test_a_method_and_a_number_of_tries_that_are_none_are_named() -> None:
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    with pytest.raises(EdgesearchError, match="the method is of type NoneType, expected its name or import path"):
        quantize(GRAPH, images, method=NOTHING)
    with pytest.raises(EdgesearchError, match="tries is 'zcu104' and seconds None; expected numbers of at least 0"):
        Options(tries=NAME)


def test_images_for_code_are_an_array() -> None:
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    code = compile_xmodel(quantize(GRAPH, images, method="vitis"), DPU)
    with pytest.raises(EdgesearchError, match=r"images are of type list, expected a numpy array, \(N, 8, 8, 3\)"):
        code.execute(list(images))  # type: ignore[arg-type]
