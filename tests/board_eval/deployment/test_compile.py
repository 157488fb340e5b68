"""A network becomes a file whose code gives its integers; what cannot become one is a sentence, and a wrong one a bug."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgesearch.board_eval import (
    DEFAULT_TARGET,
    Activation,
    Conv,
    Dpu,
    Graph,
    Input,
    Linear,
    compile_xmodel,
    execute,
    lower,
    read_xmodel,
    write_xmodel,
)
from edgesearch.board_eval.deployment import CompiledXmodel, Miscompiled, _compile
from edgesearch.board_eval.graph import without_weights
from edgesearch.board_eval.targets import DPUS, Target
from edgesearch.errors import CompileError, EdgesearchError, GraphError, QuantizationError
from edgesearch.objectives import quantize
from edgesearch.spaces import Student, build

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 16, 16, 3)).astype(np.float32)


def network(architecture: str = "cnn_tiny", *, size: int = 16) -> Graph:
    """An untrained student, lowered."""
    torch.manual_seed(0)
    return lower(build(Student(architecture=architecture, input_size=size), channels=3, classes=10).eval(), (3, size, size))


@pytest.fixture(scope="module")
def quantized() -> Graph:
    return quantize(network(), IMAGES, method="vitis")


@pytest.mark.parametrize("size", DPUS)
def test_the_code_gives_the_integers_of_the_network_on_every_size(size: str, quantized: Graph) -> None:
    xmodel = compile_xmodel(quantized, DPUS[size], images=IMAGES)
    assert xmodel.dpu == DPUS[size]
    integers = RNG.integers(-128, 128, (2, 16, 16, 3)).astype(np.int8)
    for images in (IMAGES, integers):
        np.testing.assert_array_equal(xmodel.execute(images), execute(quantized, images))


def test_the_same_network_gives_the_same_bytes_also_from_its_file(quantized: Graph, tmp_path: Path) -> None:
    write_xmodel(quantized, tmp_path / "net_int.xmodel")
    first, again = (compile_xmodel(graph, DEFAULT_TARGET) for graph in (quantized, read_xmodel(tmp_path / "net_int.xmodel")))
    assert first.content == again.content
    first.write(tmp_path / "net.xmodel")
    assert CompiledXmodel.read(tmp_path / "net.xmodel").sha256 == first.sha256


def test_steps_that_the_compiler_adds_are_read_again(tmp_path: Path) -> None:
    """A copy without an activation of its own is an operation of the file."""
    nodes = (
        Input(name="in", inputs=(), shape=(4, 4, 16), fix=3),
        Activation(name="copy", inputs=("in",), shape=(4, 4, 16), activation="none", fix=2),
    )
    graph = Graph("N", nodes)
    xmodel = compile_xmodel(graph, DEFAULT_TARGET)
    images = RNG.integers(-128, 128, (1, 4, 4, 16)).astype(np.int8)
    np.testing.assert_array_equal(xmodel.execute(images), execute(graph, images).reshape(1, -1))


def unknown_dpu() -> Dpu:
    return DPUS["B4096"].model_copy(update={"fingerprint": 0})


def other_target() -> Any:
    """A target of the user's own."""
    members = {name: getattr(DEFAULT_TARGET, name) for name in dir(Target) if not name.startswith("_")}
    return SimpleNamespace(**(members | {"name": "tpu"}))


@pytest.mark.parametrize(
    ("change", "target", "error", "words"),
    [
        (lambda graph: network(), DEFAULT_TARGET, QuantizationError, "has no fix positions; quantize it to 8 bits"),
        (without_weights, DEFAULT_TARGET, QuantizationError, "has no weights"),
        (lambda graph: Graph(graph.name, graph.nodes, 5), DEFAULT_TARGET, QuantizationError, "has 5 bits"),
        (lambda graph: graph, unknown_dpu(), CompileError, "fingerprint of 'B4096' is not known"),
        (lambda graph: graph, other_target(), CompileError, "'tpu' is no DPUCZDX8G"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(
    change: Any, target: Any, error: type[EdgesearchError], words: str, quantized: Graph
) -> None:
    with pytest.raises(error) as caught:
        compile_xmodel(change(quantized), target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_beyond_the_dpu_names_its_layer() -> None:
    kernel = (17, 17)
    conv = Conv(
        name="conv", inputs=("in",), shape=(1, 1, 8), kernel=kernel, weight=np.zeros((8, *kernel, 3), np.float32), weight_fix=3,
        has_bias=False, fix=3,
    )  # fmt: skip
    graph = Graph("large", (Input(name="in", inputs=(), shape=(17, 17, 3), fix=3), conv))
    with pytest.raises(GraphError, match="conv"):
        compile_xmodel(graph, DEFAULT_TARGET)


# -- mistakes of this program


def test_code_of_another_network_is_a_bug(quantized: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(node: Any) -> Any:
        return dataclasses.replace(node, weight=-node.weight) if isinstance(node, Linear) else node

    compile_graph = _compile.compile_graph
    monkeypatch.setattr(_compile, "compile_graph", lambda graph, dpu, _: compile_graph(graph.map(change), dpu))
    with pytest.raises(Miscompiled, match="gives other integers than the network on 4 of 4 images"):
        compile_xmodel(quantized, DEFAULT_TARGET, images=IMAGES)
    assert not issubclass(Miscompiled, EdgesearchError)


def test_code_without_its_tokens_is_a_bug(quantized: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_graph = _compile.compile_graph

    def careless(graph: Graph, dpu: Dpu, options: object) -> Any:
        compiled = compile_graph(graph, dpu)
        program = tuple(dataclasses.replace(one, dpdon=1 << one.ENGINE, dpdby=1 << one.ENGINE) for one in compiled.program)
        return dataclasses.replace(compiled, program=program)

    monkeypatch.setattr(_compile, "compile_graph", careless)
    with pytest.raises(Miscompiled, match="faults, the first: "):
        compile_xmodel(quantized, DEFAULT_TARGET, images=IMAGES)
