"""What is written is read as it was, a program that contradicts itself is refused, and files appear whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import (
    Activation,
    Concat,
    Conv,
    Graph,
    Input,
    Linear,
    Pool,
    Reshape,
    without_weights,
)
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.xmodel import (
    INPUT,
    OUTPUT,
    CompiledProgram,
    ConstantPlace,
    ProgramLayer,
    TensorPlace,
    compiled_bytes,
    operation_names,
    read_compiled,
    read_compiled_graph,
    write_compiled,
)
from edgesearch.errors import EdgesearchError, QuantizationError, XmodelError

from ._programs import as_compiled, everything, everything_fused, program_of


def _images(graph: Graph) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (2, *graph.input.shape)).astype(np.int8)


def test_random_networks_are_read_as_they_were_written(
    random_networks: st.SearchStrategy[tuple[Graph, np.ndarray]], tmp_path: Path
) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(network=random_networks)
    def check(network: tuple[Graph, np.ndarray]) -> None:
        graph, images = as_compiled(network[0]), network[1]
        program = program_of(graph)
        write_compiled(program, tmp_path / "net.xmodel")
        model, again = read_compiled(tmp_path / "net.xmodel"), read_compiled_graph(tmp_path / "net.xmodel")
        assert (model.code, model.registers[0].parameters) == (program.code, program.parameters)
        expected = execute(graph, images)
        np.testing.assert_array_equal(execute(again, images).reshape(expected.shape), expected)

    check()


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("target", DPUS.values(), ids=list(DPUS))
def test_registers_tensors_and_layers_are_read_as_they_were_written(target: Any, vector: bool, tmp_path: Path) -> None:
    program = dataclasses.replace(everything_fused(vector=vector), target=target, prefetch=True, sources={"a.xmodel": "0" * 32})
    write_compiled(program, tmp_path / "net.xmodel")
    model = read_compiled(tmp_path / "net.xmodel")
    assert (model.dpu_name, model.fingerprint) == (target.dpu_name, target.fingerprint)
    assert (model.prefetch, model.sources) == (True, {"a.xmodel": "0" * 32})
    assert [r.size for r in model.registers.values()] == [
        len(program.parameters),
        *(-(-size // 16) * 16 for size in (program.workspace_bytes, program.input_bytes, program.output_bytes)),
    ]
    names = operation_names(program.graph)
    for node in program.graph:
        # a reshape of one pixel is no operation: it is what it reads
        place = program.tensors["mean" if node.name == "flat" else node.name]
        tensor = model.tensors[names[node.name]]
        assert (tensor.register, tensor.address, tensor.on_chip) == (place.register, place.address, place.on_chip)
        assert tensor.fix == program.graph.fix_of(node.name)
    with_code = [set(layer.operations) for layer in model.layers if layer.has_code]
    assert len(with_code) == len(program.layers) + 1  # the download, which AMD's compiler does not mark either
    for layer, operations in zip(program.layers, with_code[:-1], strict=True):
        assert {names[node] for node in layer.nodes} <= operations


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu"])
def test_activations_are_kept(activation: Any, tmp_path: Path) -> None:
    def change(node: Any) -> Any:
        return dataclasses.replace(node, activation=activation) if hasattr(node, "activation") else node

    graph = as_compiled(everything().map(change))
    write_compiled(program_of(graph), tmp_path / "net.xmodel")
    again = read_compiled_graph(tmp_path / "net.xmodel")
    assert {node.activation for node in again if hasattr(node, "activation")} == {activation}
    np.testing.assert_array_equal(execute(again, _images(graph)).reshape(2, -1), execute(graph, _images(graph)).reshape(2, -1))


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu"])
def test_an_activation_of_its_own_is_an_addition_of_one_tensor(activation: Any, tmp_path: Path) -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(2, 2, 3), fix=3),
        Activation(name="act", inputs=("in",), shape=(2, 2, 3), activation=activation, fix=2),
    )
    graph = Graph("N", nodes)
    write_compiled(program_of(graph), tmp_path / "net.xmodel")
    (operation,) = (o for o in read_compiled(tmp_path / "net.xmodel").operations if o.name == "N__act")
    named = activation.upper().replace("_", "")
    assert (operation.kind, len(operation.inputs), operation.attributes["nonlinear"]) == ("eltwise-fix", 1, named)
    again = read_compiled_graph(tmp_path / "net.xmodel")
    assert isinstance(again.output, Activation)
    assert (again.output.activation, again.output.fix) == (activation, 2)
    np.testing.assert_array_equal(execute(again, _images(graph)), execute(graph, _images(graph)))


def test_a_vector_is_an_image_of_one_pixel_between_input_and_output(tmp_path: Path) -> None:
    layer = {"weight_fix": 3, "has_bias": False, "fix": 3}
    nodes = (
        Input(name="in", inputs=(), shape=(4,), fix=3),
        Linear(name="a", inputs=("in",), shape=(6,), weight=np.ones((6, 4), np.float32), **layer),
        Linear(name="b", inputs=("a",), shape=(2,), weight=np.ones((2, 6), np.float32), **layer),
    )
    graph = Graph("N", nodes)
    write_compiled(program_of(graph), tmp_path / "net.xmodel")
    model = read_compiled(tmp_path / "net.xmodel")
    kinds = [(o.kind, o.tensor.shape) for o in model.operations if o.kind != "const-fix"]
    assert kinds == [
        ("upload", (4,)),
        ("reshape-fix", (1, 1, 4)),
        ("conv2d-fix", (1, 1, 6)),
        ("conv2d-fix", (1, 1, 2)),
        ("reshape-fix", (2,)),
        ("download", (2,)),
    ]
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((4,), (2,))
    np.testing.assert_array_equal(
        execute(read_compiled_graph(tmp_path / "net.xmodel"), _images(graph)), execute(graph, _images(graph))
    )


def test_a_layer_without_bias_may_have_zeros(tmp_path: Path) -> None:
    graph = everything()
    program = program_of(graph)
    places = {
        **program.constants,
        "right": ConstantPlace(weight=program.constants["right"].weight, bias=len(program.parameters)),
    }
    program = dataclasses.replace(program, constants=places, parameters=program.parameters + bytes(64))
    write_compiled(program, tmp_path / "net.xmodel")
    right = read_compiled_graph(tmp_path / "net.xmodel").by_name["Everything__right"]
    assert isinstance(right, Conv)
    assert right.bias is not None
    assert not right.bias.any()


def test_padding_that_no_window_reaches_is_trimmed_and_missing_padding_added(tmp_path: Path) -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(7, 8, 1), fix=3),
        Pool(name="a", inputs=("in",), shape=(4, 4, 1), kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), fix=3),
        Pool(name="b", inputs=("a",), shape=(2, 2, 1), kind="max", kernel=(3, 3), stride=(2, 2), ceil_mode=True, fix=3),
    )
    graph = Graph("N", nodes)
    write_compiled(program_of(graph), tmp_path / "net.xmodel")
    again = read_compiled_graph(tmp_path / "net.xmodel")
    assert [n.padding for n in again if isinstance(n, Pool)] == [(1, 0, 1, 1), (0, 1, 0, 1)]
    np.testing.assert_array_equal(execute(again, _images(graph)), execute(graph, _images(graph)))


def test_parts_of_a_concat_lie_in_the_whole(tmp_path: Path) -> None:
    program = program_of(everything())
    whole = program.tensors["concat"].address
    parts = {name: TensorPlace(address=whole + offset, stride=(4 * 8, 8, 1)) for name, offset in (("left", 0), ("right", 3))}
    program = dataclasses.replace(program, tensors={**program.tensors, **parts})
    write_compiled(program, tmp_path / "net.xmodel")
    model = read_compiled(tmp_path / "net.xmodel")
    right = model.tensors["Everything__right"]
    assert (right.address, right.stride, right.end) == (whole + 3, (32, 8, 1), model.tensors["Everything__concat"].end)
    (concat,) = (layer for layer in model.layers if layer.operations == ("Everything__concat",))
    assert (concat.has_code, concat.workload) == (False, 0)


# -- files


def test_the_same_program_gives_the_same_bytes() -> None:
    assert compiled_bytes(everything_fused()) == compiled_bytes(everything_fused())


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(XmodelError, match=r"nowhere/net.xmodel cannot be written: No such file"):
        write_compiled(everything_fused(), tmp_path / "nowhere" / "net.xmodel")
    (tmp_path / "net.xmodel").mkdir()
    with pytest.raises(XmodelError, match="cannot be written"):
        write_compiled(everything_fused(), tmp_path / "net.xmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["net.xmodel"]


# -- what is refused


def _places(**places: TensorPlace) -> Callable[[CompiledProgram], CompiledProgram]:
    return lambda p: dataclasses.replace(p, tensors={**p.tensors, **places})


def _without(field: str, name: str) -> Callable[[CompiledProgram], CompiledProgram]:
    return lambda p: dataclasses.replace(p, **{field: {k: v for k, v in getattr(p, field).items() if k != name}})


def _graph(change: Callable[[Any], Any]) -> Callable[[CompiledProgram], CompiledProgram]:
    return lambda p: dataclasses.replace(p, graph=p.graph.map(change))


CONTRADICTIONS: dict[str, tuple[Callable[[CompiledProgram], CompiledProgram], str]] = {
    "no code": (lambda p: dataclasses.replace(p, code=b""), "0 bytes of code"),
    "half a word": (lambda p: dataclasses.replace(p, code=b"abcdef"), "6 bytes of code"),
    "no parameters": (lambda p: dataclasses.replace(p, parameters=b""), "no parameters"),
    "huge registers": (lambda p: dataclasses.replace(p, workspace_bytes=1 << 31), "less than 2\\*\\*31"),
    "an unknown node": (lambda p: dataclasses.replace(p, augmented=frozenset({"x"})), r"does not have, \['x'\]"),
    "a node twice": (lambda p: dataclasses.replace(p, layers=(*p.layers, ProgramLayer(nodes=("fc",)))), r"twice, \['fc'\]"),
    "a node in no layer": (lambda p: dataclasses.replace(p, layers=p.layers[:-1]), r"nodes \['fc'\] are in no layer"),
    "layers out of order": (lambda p: dataclasses.replace(p, layers=p.layers[::-1]), "which it reads; order the layers"),
    "no place": (_without("tensors", "left"), "node 'left' has no place"),
    "no constants": (_without("constants", "left"), "layer 'left' has no place for its weights"),
    "no bias": (
        lambda p: dataclasses.replace(p, constants={**p.constants, "left": ConstantPlace(weight=0)}),
        "layer 'left' has no place for its weights or bias",
    ),
    "constants outside": (
        lambda p: dataclasses.replace(p, constants={**p.constants, "right": ConstantPlace(weight=10**6)}),
        "layer 'right' has a constant at bytes 1000000",
    ),
    "a place outside": (_places(left=TensorPlace(address=10**6)), "node 'left' takes bytes 1000000"),
    "a place before": (_places(left=TensorPlace(address=-1)), "node 'left' takes bytes -1"),
    "an unknown register": (_places(left=TensorPlace(register=6)), "of register 6, which has 0"),
    "strides of other axes": (_places(left=TensorPlace(stride=(1,))), r"has the strides \(1,\), expected one an axis"),
    "an input elsewhere": (_places(**{"in": TensorPlace(register=OUTPUT)}), "'in'"),
    "an input with gaps": (_places(**{"in": TensorPlace(register=INPUT, stride=(32, 3, 1))}), "'in'"),
    "an output on chip": (_places(fc=TensorPlace(register=OUTPUT, on_chip=True)), "'fc' lies on chip, expected in register 3"),
    "another average": (
        _graph(lambda n: dataclasses.replace(n, factor=1.5) if isinstance(n, Pool) and n.kind == "avg" else n),
        "pool 'mean' multiplies its mean by 1.5, and the DPU by 1.0",
    ),
    "other bits": (lambda p: dataclasses.replace(p, graph=Graph("Everything", p.graph.nodes, 5)), "has 5 bits, expected 8"),
    "no fix positions": (_graph(lambda n: dataclasses.replace(n, fix=None)), "quantize"),
    "no position of weights": (
        _graph(lambda n: dataclasses.replace(n, weight_fix=None) if n.name == "left" else n),
        "layer 'left' has no place",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_contradictions_are_named(what: str) -> None:
    change, message = CONTRADICTIONS[what]
    with pytest.raises((XmodelError, QuantizationError), match=message):
        compiled_bytes(change(program_of(everything())))


def test_a_network_without_weights_can_be_written_but_not_without_operations() -> None:
    assert compiled_bytes(dataclasses.replace(everything_fused(), graph=without_weights(everything())))
    nodes = (Input(name="in", inputs=(), shape=(2, 2, 1), fix=3),)
    with pytest.raises(EdgesearchError, match="no layers"):
        compiled_bytes(dataclasses.replace(program_of(Graph("N", nodes)), tensors={"in": TensorPlace(register=INPUT)}))


def test_a_node_rounded_to_two_positions_is_refused() -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(2, 2, 1), fix=3),
        Pool(name="p", inputs=("in",), shape=(2, 2, 1), kind="max", kernel=(1, 1), stride=(1, 1)),
        Concat(name="a", inputs=("p", "in"), shape=(2, 2, 2), fix=3),
        Concat(name="b", inputs=("p", "in"), shape=(2, 2, 2), fix=2),
        Concat(name="c", inputs=("a", "b"), shape=(2, 2, 4), fix=2),
    )
    with pytest.raises(XmodelError, match=r"'p' is rounded to the fix positions \(2, 3\)"):
        compiled_bytes(program_of(Graph("N", nodes)))


def test_a_reshape_of_a_tensor_with_gaps_needs_a_place() -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(2, 2, 1), fix=3),
        Pool(name="p", inputs=("in",), shape=(2, 2, 1), kind="max", kernel=(1, 1), stride=(1, 1), fix=3),
        Reshape(name="flat", inputs=("p",), shape=(4,)),
        Linear(
            name="fc", inputs=("flat",), shape=(1,), weight=np.ones((1, 4), np.float32), weight_fix=0, has_bias=False, fix=3
        ),
    )
    program = program_of(Graph("N", nodes))
    gaps = {**program.tensors, "p": TensorPlace(stride=(4, 2, 1))}
    program = dataclasses.replace(program, tensors=gaps, workspace_bytes=64)
    assert compiled_bytes(program)
    del gaps["flat"]
    with pytest.raises(XmodelError, match="'flat' reads a tensor with gaps"):
        compiled_bytes(program)
