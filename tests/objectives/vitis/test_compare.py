"""Two quantized forms of one network side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesearch.board_eval import Conv, Graph, lower, read_xmodel, write_xmodel
from edgesearch.objectives.quantization import quantize
from edgesearch.objectives.vitis import compare_graphs, load_source, pair_nodes, torch_source
from edgesearch.spaces import Student, build

IMAGES = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)


def quantized(name: str, method: str = "vitis") -> Graph:
    torch.manual_seed(0)
    model = build(Student(architecture=name, input_size=16, width=0.25), channels=3, classes=6).eval()
    return quantize(lower(model, (3, 16, 16)), IMAGES, method=method)


def renamed(graph: Graph) -> Graph:
    """The network with other names."""
    new = {node.name: f"n{number}" for number, node in enumerate(graph)}
    nodes = [
        dataclasses.replace(node, name=new[node.name], inputs=tuple(new[name] for name in node.inputs), op_names=())
        for node in graph
    ]
    return Graph("other", tuple(nodes), graph.bits)


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1", "mobilenet_v2", "mlp"])
def test_the_same_network_under_other_names_does_not_differ(name: str, tmp_path: Path) -> None:
    graph = quantized(name)
    write_xmodel(renamed(graph), tmp_path / "a.xmodel")
    difference = compare_graphs(graph, read_xmodel(tmp_path / "a.xmodel"), IMAGES)
    assert (difference.unpaired, difference.positions_differ, difference.integers_differ) == (0, 0, 0)
    assert difference.answers_differ == 0
    assert difference.layers == sum(type(node).__name__ != "Reshape" for node in graph)
    assert difference.integers == graph.parameters


def test_the_written_code_is_the_same_network() -> None:
    torch.manual_seed(0)
    model = build(Student(architecture="resnet18", input_size=16, width=0.25), channels=3, classes=6).eval()
    own = lower(model, (3, 16, 16))
    other = lower(load_source(torch_source(model, (3, 16, 16))), (3, 16, 16))
    assert len(pair_nodes(own, other)) == sum(type(node).__name__ != "Reshape" for node in own)


def test_what_differs_is_counted_and_named() -> None:
    graph = quantized("resnet20")
    conv = next(node for node in graph if isinstance(node, Conv))
    assert conv.weight is not None
    assert conv.fix is not None
    assert conv.weight_fix is not None
    weight = conv.weight.copy()
    weight.flat[:3] += 2.0**-conv.weight_fix
    other = graph.replace({conv.name: dataclasses.replace(conv, weight=weight, fix=conv.fix - 1)})
    difference = compare_graphs(graph, other, IMAGES)
    assert (difference.positions_differ, difference.integers_differ) == (1, 3)
    assert difference.where == (f"{conv.name} value: {conv.fix} and {conv.fix - 1}",)
    assert difference.images == 5


def test_layers_of_one_network_alone_are_counted() -> None:
    one, other = quantized("resnet20"), quantized("squeezenet1_1")
    difference = compare_graphs(one, other, IMAGES)
    assert difference.layers < difference.unpaired
    assert difference.answers_differ == 5
