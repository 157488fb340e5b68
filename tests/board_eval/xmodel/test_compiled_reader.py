"""Whatever a compiled file holds, reading it ends in a model or an XmodelError, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.execution import execute
from edgesearch.board_eval.graph import Conv, Graph, Input, Pool
from edgesearch.board_eval.xmodel import (
    CompiledModel,
    Register,
    compiled_graph,
    read_compiled,
    read_compiled_graph,
    read_xmodel,
    write_compiled,
    write_xmodel,
)
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import XmodelError

from ._programs import everything, everything_fused, program_of

#: File -> registers' sizes, shapes of outputs, bytes of code, operations.
COMPILED = {
    "SqueezeNet_ptq_zcu104": ((880640, 2179264, 150528, 16), [(10,)], 107492, 95),
    "MobileNetV2_ptq_zcu104": ((2670592, 827904, 151216, 16), [(10,)], 255156, 176),
    "ResNet50_095_zcu104": ((1867776, 475104, 153984, 16), [(10,)], 173832, 192),
    "yolox_nano_B512": ((1552384, 5829824, 520432, 301680), [(52, 52, 85), (26, 26, 85), (13, 13, 85)], 452136, 371),
    "yolox_nano_B1024": ((1552384, 5829824, 520432, 301680), [(52, 52, 85), (26, 26, 85), (13, 13, 85)], 332896, 371),
    "yolox_nano_B2304": ((1552384, 5829824, 520432, 301680), [(52, 52, 85), (26, 26, 85), (13, 13, 85)], 284524, 371),
    "yolox_nano_B4096": ((1552384, 5829824, 520432, 301680), [(52, 52, 85), (26, 26, 85), (13, 13, 85)], 237084, 371),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "small.xmodel"
    write_compiled(everything_fused(), path)
    return path


@pytest.mark.parametrize("name", COMPILED)
def test_amds_files_are_read(name: str, reference_data: Path) -> None:
    sizes, outputs, code, operations = COMPILED[name]
    model = read_compiled(reference_data / "compiled" / f"{name}.xmodel")
    assert tuple(register.size for register in model.registers.values()) == sizes
    assert [register.kind for register in model.registers.values()] == ["CONST", "WORKSPACE", "INTERFACE", "INTERFACE"]
    assert len(model.registers[0].parameters) == sizes[0]
    assert [tensor.shape for tensor in model.outputs] == outputs
    assert (len(model.code), len(model.operations)) == (code, operations)
    assert model.fingerprint >> 48 == 0x0101
    assert sum(layer.workload for layer in model.layers) == model.workload


def test_squeezenets_logits_are_the_golden_ones(golden: Callable[[str], Any], reference_data: Path) -> None:
    expected = golden("squeezenet")
    graph = read_compiled_graph(reference_data / "compiled" / "SqueezeNet_ptq_zcu104.xmodel")
    np.testing.assert_array_equal(execute(graph, expected.images), expected.logits)


def test_downsampling_is_a_maximum_over_one_pixel(reference_data: Path) -> None:
    graph = read_compiled_graph(reference_data / "compiled" / "ResNet50_095_zcu104.xmodel")
    steps = [node for node in graph if isinstance(node, Pool) and node.kernel == (1, 1)]
    assert [(step.kind, step.stride) for step in steps] == [("max", (2, 2))] * 3


def test_upsampling_is_refused(reference_data: Path) -> None:
    with pytest.raises(XmodelError, match="'upsample-fix' have no form in a Graph"):
        read_compiled_graph(reference_data / "compiled" / "yolox_nano_B512.xmodel")


def test_what_a_small_file_holds(small: Path) -> None:
    model = read_compiled(small)
    assert (model.name, model.dpu_name) == ("Everything", "DPUCZDX8G_ISA1_B4096")
    assert model.registers[3] == Register(id=3, kind="INTERFACE", size=16)
    (image,), (result,) = model.inputs, model.outputs
    assert (image.name, image.shape, image.fix, image.register, image.address) == ("Everything__in_fix", (8, 8, 3), 6, 2, 48)
    assert (image.stride, image.steps, image.end) == ((24, 3, 1), (24, 3, 1), 48 + 192)
    assert (result.name, result.shape, result.fix, result.register) == ("Everything__fc_fix", (5,), 1, 3)
    stem = model.tensors["Everything__stem"]
    assert stem.on_chip
    assert [layer.operations[-1].removeprefix("Everything__") for layer in model.layers if layer.has_code][:2] == [
        "pool_fix",
        "dw",
    ]


def test_a_finer_bias_is_read_where_it_was_shifted_to(small: Path) -> None:
    wide = read_compiled_graph(small).by_name["Everything__wide"]
    assert isinstance(wide, Conv)
    assert read_compiled(small).tensors["Everything__wide_bias"].fix == 12
    assert (wide.weight_fix, wide.bias_fix) == (6, 2 + 6 + 1)


# -- what is refused


def _damaged(path: Path, to: Path, change: Callable[[Any, Any, dict[str, Any]], object]) -> Path:
    """The file with a change made to its message, its DPU subgraph and its operations by name."""
    message = graph_message()()
    message.ParseFromString(path.read_bytes())
    change(message, message.subg_root.subg_child[1], {op.op_name.removeprefix("Everything__"): op for op in message.op_node})
    (to / "damaged.xmodel").write_bytes(message.SerializeToString())
    return to / "damaged.xmodel"


def _place(op: Any, **numbers: int) -> None:
    for name, value in numbers.items():
        op.output_tensor.tensor_attr[name].int32_value = value


def _table(subgraph: Any, name: str) -> Any:
    attribute = subgraph.subg_attr[name]
    return getattr(attribute, attribute.WhichOneof("value")).value


DAMAGE: dict[str, tuple[Callable[[Any, Any, dict[str, Any]], Any], str]] = {
    "no DPU": (
        lambda m, d, o: setattr(d.subg_attr["device"], "string_value", "CPU"),
        "3 subgraphs \\(1 USER, 2 CPU\\); the CPU does .*expected one for a DPU",
    ),
    "two DPUs": (
        lambda m, d, o: m.subg_root.subg_child.add().CopyFrom(d),
        "4 subgraphs \\(1 USER, 2 DPU, 1 CPU\\); expected one for a DPU",
    ),
    "no subgraphs": (lambda m, d, o: m.ClearField("subg_root"), "not compiled"),
    "another DPU": (
        lambda m, d, o: setattr(d.subg_attr["dpu_name"], "string_value", "DPUCAHX8H_ISA2"),
        "for a DPU 'DPUCAHX8H_ISA2'.*expected a DPUCZDX8G_ISA1",
    ),
    "another ISA": (
        lambda m, d, o: setattr(d.subg_attr["dpu_fingerprint"], "uint64_value", 0x0102_0000_5601_0407),
        "instruction set 2",
    ),
    "no name of a DPU": (lambda m, d, o: d.subg_attr.pop("dpu_name"), "for a DPU ''"),
    "no code": (lambda m, d, o: d.subg_attr.pop("mc_code"), "attribute 'mc_code', expected bytes"),
    "half a word": (lambda m, d, o: setattr(d.subg_attr["mc_code"].bytes_value, "value", b"abcdef"), "6 bytes of code"),
    "no registers": (
        lambda m, d, o: [d.subg_attr.pop(f"reg_id_to_context_type{v}") for v in ("", "_v2")],
        "has no registers",
    ),
    "no workspace": (lambda m, d, o: _table(d, "reg_id_to_context_type_v2").pop("REG_1"), "REG_0, REG_2, REG_3 only"),
    "no size": (lambda m, d, o: _table(d, "reg_id_to_size").pop("REG_1"), r"REG_1 \(WORKSPACE\) of size 0"),
    "no parameters": (lambda m, d, o: d.subg_attr.pop("reg_id_to_parameter_value"), "and 0 bytes of parameters"),
    "a ninth register": (
        lambda m, d, o: _table(d, "reg_id_to_context_type_v2").update(REG_9="CONST"),
        "register 'REG_9', expected REG_0 to REG_7",
    ),
    "an unknown kind": (
        lambda m, d, o: _table(d, "reg_id_to_context_type_v2").update(REG_1="HEAP"),
        "of kind 'HEAP', expected CONST",
    ),
    "sizes that are text": (
        lambda m, d, o: d.subg_attr["reg_id_to_size"].map_string_2_string.value.update(REG_0="1"),
        "expected names with values of type int",
    ),
    "a place outside": (lambda m, d, o: _place(o["concat"], ddr_addr=10**6), "of REG_1, which has"),
    "a place before": (lambda m, d, o: _place(o["concat"], ddr_addr=-1), "takes bytes -1"),
    "an unknown register": (lambda m, d, o: _place(o["concat"], reg_id=5), "lies in register 5"),
    "no place": (lambda m, d, o: o["concat"].output_tensor.tensor_attr.pop("reg_id"), "attribute 'reg_id'"),
    "strides of other axes": (
        lambda m, d, o: o["concat"].output_tensor.tensor_attr["stride"].int32_vec.value.append(1),
        "5 strides for the shape",
    ),
    "negative strides": (
        lambda m, d, o: o["concat"].output_tensor.tensor_attr["stride"].int32_vec.value.__setitem__(0, -8),
        "expected numbers of bytes",
    ),
    "16 bits": (lambda m, d, o: _place(o["concat"], bit_width=16), "16 bits, expected"),
    "a far fix position": (lambda m, d, o: _place(o["concat"], fix_point=1000), "fix position 1000"),
    "a batch": (lambda m, d, o: o["concat"].output_tensor.tensor_dim.__setitem__(0, 2), "batch of 1"),
    "a lost operation": (lambda m, d, o: m.op_node.remove(o["concat"]), "'Everything__concat', which"),
    "a cycle": (lambda m, d, o: o["left"].args[0].arg_ops.__setitem__(0, "Everything__concat"), "does not come before it"),
    "two of a name": (lambda m, d, o: setattr(o["right"], "op_name", "Everything__left"), "no name of its own"),
    "no input": (lambda m, d, o: setattr(o["in_upload_0"], "op_type", "reshape-fix"), "does not come before|no input"),
    "no output": (lambda m, d, o: setattr(o["fc_reshaped_download_0"], "op_type", "x"), "'reg_id'"),
    "layers in layers": (lambda m, d, o: d.subg_child[1].subg_child.add(), "holds layers of its own"),
    "another download": (lambda m, d, o: _place(o["fc_reshaped_download_0"], fix_point=3), "expected the same"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, small: Path, tmp_path: Path) -> None:
    change, message = DAMAGE[what]
    path = _damaged(small, tmp_path, change)
    with pytest.raises(XmodelError, match=message) as caught:
        read_compiled(path)
    assert str(path) in str(caught.value)


GRAPH_DAMAGE: dict[str, tuple[Callable[[Any, Any, dict[str, Any]], Any], str]] = {
    "an unknown operation": (lambda m, d, o: setattr(o["concat"], "op_type", "magic"), "'magic' have no form in a Graph"),
    "an unknown activation": (lambda m, d, o: _text(o["left"], nonlinear="HSWISH"), "activation 'HSWISH'"),
    "a product": (lambda m, d, o: _text(o["add"], type="MUL"), "of type 'MUL', expected ADD"),
    "another pool": (lambda m, d, o: _text(o["mean_fix"], type="L2"), "of type 'L2'"),
    "another padding": (lambda m, d, o: _text(o["left"], pad_mode="SAME"), "pad_mode 'SAME'"),
    "groups": (lambda m, d, o: setattr(o["left"].op_attr["group"], "int32_value", 2), "has groups"),
    "another kernel": (lambda m, d, o: o["left"].op_attr["kernel"].int32_vec.value.__setitem__(0, 5), "kernel 5 x 3"),
    "a stride of zero": (lambda m, d, o: o["left"].op_attr["stride"].int32_vec.value.__setitem__(0, 0), "stride"),
    "a kernel of zero": (lambda m, d, o: o["mean_fix"].op_attr["kernel"].int32_vec.value.__setitem__(0, 0), "kernel 0 x 2"),
    "no weights": (lambda m, d, o: o["left"].args.pop(1), "reads '', expected a constant"),
    "a fractional step": (lambda m, d, o: o["step_fix"].op_attr["scale"].float_vec.value.__setitem__(0, 1.5), "whole ones"),
    "one factor": (lambda m, d, o: o["step_fix"].op_attr["scale"].float_vec.value.pop(), "two factors"),
    "weights elsewhere": (lambda m, d, o: _place(o["left_weight"], reg_id=1, ddr_addr=0), "0 bytes in REG_1"),
    "another axis": (lambda m, d, o: setattr(o["concat"].op_attr["axis"], "int32_value", 0), "along the batch"),
    "another shape": (lambda m, d, o: o["add"].output_tensor.tensor_dim.__setitem__(3, 3), "its inputs make it|strides"),
}


def _text(op: Any, **values: str) -> None:
    for name, value in values.items():
        op.op_attr[name].string_value = value


@pytest.mark.parametrize("what", GRAPH_DAMAGE)
def test_what_no_graph_holds_is_named(what: str, small: Path, tmp_path: Path) -> None:
    change, message = GRAPH_DAMAGE[what]
    with pytest.raises(XmodelError, match=message):
        read_compiled_graph(_damaged(small, tmp_path, change))


def test_files_before_the_second_table_of_registers(small: Path, tmp_path: Path) -> None:
    """Their registers are called CONST and DATA; what inputs and outputs use is an interface."""
    path = _damaged(small, tmp_path, lambda m, d, o: d.subg_attr.pop("reg_id_to_context_type_v2"))
    assert read_compiled(path).registers == read_compiled(small).registers


def test_a_file_without_fingerprint_is_read(small: Path, tmp_path: Path) -> None:
    assert read_compiled(_damaged(small, tmp_path, lambda m, d, o: d.subg_attr.pop("dpu_fingerprint"))).fingerprint == 0


def test_each_reader_tells_the_others_files(small: Path, tmp_path: Path) -> None:
    write_xmodel(everything(), tmp_path / "int.xmodel")
    with pytest.raises(XmodelError, match="it is not compiled"):
        read_compiled(tmp_path / "int.xmodel")
    with pytest.raises(XmodelError, match="compiled xmodel; give the quantizer's own file"):
        read_xmodel(small)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(XmodelError, match="No such file"):
        read_compiled(tmp_path / "none.xmodel")
    with pytest.raises(XmodelError, match="directory"):
        read_compiled_graph(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """Behind the subgraphs only the names of sources and libraries follow; without them everything is there."""
    nodes = (
        Input(name="in", inputs=(), shape=(2, 2, 1), fix=3),
        Pool(name="p", inputs=("in",), shape=(1, 1, 1), kind="max", kernel=(2, 2), stride=(2, 2), fix=3),
    )
    path = tmp_path / "whole.xmodel"
    write_compiled(program_of(Graph("N", nodes)), path)
    whole, content = read_compiled(path), path.read_bytes()
    read = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            found = read_compiled(path)
        except XmodelError:
            continue
        read += 1
        assert (found.code, found.registers, found.operations, found.layers) == (
            whole.code,
            whole.registers,
            whole.operations,
            whole.layers,
        )
        assert length > len(content) - 100
    assert read <= 2  # between the subgraphs, the sources and the libraries


def _reads_or_refuses(path: Path) -> None:
    try:
        assert isinstance(compiled_graph(model := read_compiled(path)), Graph)
        assert isinstance(model, CompiledModel)
    except XmodelError:
        pass


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_never_cause_anything_but_a_model_or_an_xmodel_error(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "flipped").write_bytes(bytes(content))
    _reads_or_refuses(tmp_path / "flipped")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_structure_never_causes_anything_but_a_model_or_an_xmodel_error(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    message = graph_message()()
    message.ParseFromString(small.read_bytes())
    ops, dpu = message.op_node, message.subg_root.subg_child[1]
    for _ in range(data.draw(st.integers(1, 3))):
        op = data.draw(st.sampled_from(list(ops)))
        attributes = data.draw(st.sampled_from([op.op_attr, op.output_tensor.tensor_attr, dpu.subg_attr]))
        name = data.draw(st.sampled_from(sorted(attributes) or [""]))
        numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 9)
        match data.draw(st.sampled_from(["argument", "drop", "shape", "attribute", "number", "numbers", "text", "type"])):
            case "argument" if op.args:
                argument = data.draw(st.sampled_from(list(op.args)))
                argument.arg_ops[:] = data.draw(st.lists(st.sampled_from([o.op_name for o in ops]), max_size=3))
            case "drop" if op.args:
                del op.args[0]
            case "shape":
                sizes = st.sampled_from([0, 1, 2, 6, 8, 2**16, 2**31, 2**32 - 1])
                op.output_tensor.tensor_dim[:] = data.draw(st.lists(sizes, max_size=5))
            case "attribute" if name:
                del attributes[name]
            case "number" if name:
                attributes[name].int32_value = data.draw(numbers)
            case "numbers" if name:
                attributes[name].int32_vec.value[:] = data.draw(st.lists(numbers, max_size=5))
            case "text" if name:
                attributes[name].string_value = data.draw(st.sampled_from(["", "RELU", "AVG", "DPU"]))
            case "type":
                op.op_type = data.draw(st.sampled_from(sorted({o.op_type for o in ops} | {"magic"})))
            case _:
                pass
    (tmp_path / "damaged").write_bytes(message.SerializeToString())
    _reads_or_refuses(tmp_path / "damaged")


_READ_IN_LITTLE_MEMORY = """
import resource, sys
from edgesearch.board_eval.xmodel import read_compiled
from edgesearch.errors import XmodelError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_compiled(sys.argv[1])
except XmodelError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("claim", ["two gigabytes of file", "a million operations", "a million layers"])
def test_large_claims_cost_no_memory(claim: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "claim.xmodel"
    content = small.read_bytes()
    if claim == "two gigabytes of file":
        path.write_bytes(content)
        os.truncate(path, 2**31)
    elif claim == "a million operations":
        path.write_bytes(content + b"\x2a\x00" * 10**6)
    else:
        layers = b"\x52\x00" * 5 * 10**6  # children of the root, ten megabytes
        path.write_bytes(content + b"\x52" + bytes([0x80 | len(layers) & 0x7F, *_varint(len(layers) >> 7)]) + layers)
    command = [sys.executable, "-c", _READ_IN_LITTLE_MEMORY, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(result.stdout) < 400, result.stderr


def _varint(value: int) -> list[int]:
    return [value] if value < 0x80 else [0x80 | value & 0x7F, *_varint(value >> 7)]
