from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.graph._graph import (
    Activation,
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    without_weights,
)
from edgesearch.board_eval.graph._names import fix_names, op_names
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.board_eval.xmodel._reader import read_xmodel
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.board_eval.xmodel._writer import write_xmodel
from edgesearch.errors import QuantizationError, XmodelError

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


# -- names


def test_nodes_of_a_lowered_network_keep_their_names(golden: Any, resnet20_float: Any, tmp_path: Path) -> None:
    graph = with_positions_of(lower(resnet20_float, (3, 32, 32)), golden("resnet20").graph)
    write_xmodel(graph, tmp_path / "a.xmodel")
    again = read_xmodel(tmp_path / "a.xmodel")
    assert [node.name for node in again] == [node.name for node in graph]
    assert again.by_name["layer1.0.conv1"].op_names == graph.by_name["layer1.0.conv1"].op_names
    write_xmodel(again, tmp_path / "b.xmodel")
    assert (tmp_path / "b.xmodel").read_bytes() == (tmp_path / "a.xmodel").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_network_survives_a_round_trip(random_networks: Any, tmp_path: Path, data: st.DataObject) -> None:
    graph, _ = data.draw(random_networks)
    write_xmodel(graph, tmp_path / "a.xmodel")
    assert_same(graph, read_xmodel(tmp_path / "a.xmodel"))


def test_operations_of_nodes_whose_names_sanitise_alike_stay_apart() -> None:
    nodes = (
        Input(name="a.b", inputs=(), shape=(4,), fix=3),
        Add(name="a_b", inputs=("a.b", "a.b"), shape=(4,), fix=3),
        Add(name="a-b", inputs=("a_b", "a.b"), shape=(4,), fix=3),
        Add(name="a_b_fix", inputs=("a-b", "a.b"), shape=(4,), fix=3),
    )
    names = [names.output for names in fix_names(Graph("G", nodes)).values()]
    operations = [name for group in op_names(Graph("G", nodes)).values() for name in group]
    assert len(set(names + operations)) == 8
    assert all(re.fullmatch("[0-9A-Za-z_]+", name) for name in names + operations)


# -- bad input


def test_a_network_that_is_not_quantized_cannot_be_written(resnet20_float: Any, tmp_path: Path) -> None:
    graph = lower(resnet20_float, (3, 32, 32))
    with pytest.raises(QuantizationError, match=r"'fc' of 'ResNet20' has no fix position; quantize it first"):
        write_xmodel(graph, tmp_path / "a.xmodel")
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_weights_cannot_be_written(golden: Any, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="has no weights, only shapes"):
        write_xmodel(without_weights(golden("tiny").graph), tmp_path / "a.xmodel")


def test_a_node_that_only_compiled_files_have_cannot_be_written(tmp_path: Path) -> None:
    image = Input(name="in", inputs=(), shape=(4, 4, 3), fix=3)
    part = Activation(name="part", inputs=("in",), shape=(4, 4, 3), activation="none", fix=2)
    with pytest.raises(XmodelError, match="'part' of 'G' does nothing but move values to another fix position"):
        write_xmodel(Graph("G", (image, part)), tmp_path / "a.xmodel")
    assert list(tmp_path.iterdir()) == []


def test_weights_off_the_grid_are_written_rounded(golden: Any, tmp_path: Path) -> None:
    graph = golden("tiny").graph
    node = graph.by_name["fc"]
    shifted = dataclasses.replace(node, weight=node.weight + np.float32(0.3 * 2.0**-node.weight_fix))
    write_xmodel(graph.replace({"fc": shifted}), tmp_path / "a.xmodel")
    assert_same(graph, read_xmodel(tmp_path / "a.xmodel"))


def test_a_failed_write_leaves_the_file_that_was_there(golden: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xmodel"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(XmodelError, match="cannot be written: No space left"):
        write_xmodel(golden("tiny").graph, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.xmodel"]
    assert path.read_bytes() == b"before"
