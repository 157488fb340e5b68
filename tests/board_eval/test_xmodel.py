from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval._graph import Add, Concat, Conv, Depthwise, Graph, Linear, Node, Pool
from edgesearch.board_eval._lowering import lower
from edgesearch.board_eval._xir_wire import graph_message
from edgesearch.board_eval._xmodel import read_xmodel, write_xmodel

Differences = Callable[[Path, Path], int]


def assert_same(a: Graph, b: Graph) -> None:
    """Every field of every node is equal."""
    assert (a.name, a.bits, len(a.nodes)) == (b.name, b.bits, len(b.nodes))
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert type(x) is type(y)
        for field in dataclasses.fields(x):
            left, right = getattr(x, field.name), getattr(y, field.name)
            if isinstance(left, np.ndarray):
                np.testing.assert_array_equal(left, right)
            else:
                assert left == right, (x.name, field.name)


@pytest.mark.parametrize("name", ["squeezenet", "resnet20", "tiny"])
def test_golden_files_survive_a_round_trip(name: str, golden: Any, tmp_path: Path) -> None:
    graph = golden(name).graph
    write_xmodel(graph, tmp_path / "a.xmodel")
    assert_same(graph, read_xmodel(tmp_path / "a.xmodel"))


@pytest.mark.parametrize("name", ["squeezenet", "resnet20"])
def test_golden_files_are_written_as_they_were_read(
    name: str, golden: Any, structural_differences: Differences, tmp_path: Path
) -> None:
    write_xmodel(golden(name).graph, tmp_path / "a.xmodel")
    assert structural_differences(golden(name).xmodel, tmp_path / "a.xmodel") == 0
    ours, theirs = _op_names(tmp_path / "a.xmodel"), _op_names(golden(name).xmodel)
    assert ours == theirs


def _op_names(path: Path) -> set[str]:
    message = graph_message()()
    message.ParseFromString(path.read_bytes())
    return {op.op_name for op in message.op_node}


def with_positions_of(graph: Graph, golden: Graph) -> Graph:
    """`graph` with the fix positions of `golden`: layers matched by their constants' names, other nodes by their order."""
    layers = {n.op_names[0]: n for n in golden if isinstance(n, Conv | Depthwise | Linear)}
    others = {kind: iter([n for n in golden if isinstance(n, kind)]) for kind in (Add, Concat, Pool)}

    def change(node: Node) -> Node:
        if isinstance(node, Conv | Depthwise | Linear):
            match = layers[node.op_names[0]]
            return dataclasses.replace(node, fix=match.fix, weight_fix=match.weight_fix, bias_fix=match.bias_fix)
        if type(node) in others:
            return dataclasses.replace(node, fix=next(others[type(node)]).fix)
        return dataclasses.replace(node, fix=golden.input.fix) if node is graph.input else node

    return graph.map(change)


def with_parameters(graph: Graph, weights: dict[str, np.ndarray], corrections: list[np.ndarray]) -> Graph:
    """`graph` with equalized weights and corrected biases as nndct's files give them (conv weights in torch's layout)."""
    left = iter(corrections)

    def change(node: Node) -> Node:
        if not isinstance(node, Conv | Linear):
            return node
        weight, bias = weights[f"{node.name}.weight"], weights[f"{node.name}.bias"]
        weight = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
        return dataclasses.replace(node, weight=np.ascontiguousarray(weight), bias=bias - next(left))

    return graph.map(change)


def _corrections(folder: Path) -> list[np.ndarray]:
    saved = np.load(folder / "bias_corr.npz")
    return [saved[k] for k in sorted(saved, key=lambda k: int(k.rsplit("_", 1)[1]))]


def test_what_is_written_for_resnet20_equals_amds_export(
    golden: Any, resnet20_float: Any, structural_differences: Differences, tmp_path: Path
) -> None:
    reference = golden("resnet20")
    graph = with_positions_of(lower(resnet20_float, (3, 32, 32)), reference.graph)
    weights = {k.split("::")[1]: v for k, v in np.load(reference.folder / "folded_params.npz").items()}
    write_xmodel(with_parameters(graph, weights, _corrections(reference.folder)), tmp_path / "a.xmodel")
    assert structural_differences(reference.xmodel, tmp_path / "a.xmodel") == 0


def test_what_is_written_for_squeezenet_equals_amds_export(
    golden: Any, squeezenet_float: Any, structural_differences: Differences, tmp_path: Path
) -> None:
    reference = golden("squeezenet")
    graph = with_positions_of(lower(squeezenet_float, (3, 224, 224)), reference.graph)
    files = ("squeezenet1_0_cifar10.npz", "cle_changed_params.npz")
    weights = {k: v for file in files for k, v in np.load(reference.folder / file).items()}
    write_xmodel(with_parameters(graph, weights, _corrections(reference.folder)), tmp_path / "a.xmodel")
    assert structural_differences(reference.xmodel, tmp_path / "a.xmodel") == 0
