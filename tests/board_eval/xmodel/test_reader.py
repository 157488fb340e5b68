"""Whatever a file holds, reading it ends in a Graph or an XmodelError, in bounded memory."""

from __future__ import annotations

import os
import resource
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
from edgesearch.board_eval.graph._averages import average_factor
from edgesearch.board_eval.graph._graph import (
    Activation,
    Add,
    Concat,
    Conv,
    Graph,
    Input,
    Linear,
    Pool,
    Reshape,
)
from edgesearch.board_eval.xmodel._reader import read_xmodel
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.board_eval.xmodel._writer import write_xmodel
from edgesearch.errors import XmodelError

RNG = np.random.default_rng(0)


def small_graph() -> Graph:
    """A network with one of most kinds of operation."""
    weight = RNG.integers(-128, 128, (4, 3, 3, 2)) / 64
    nodes = (
        Input(name="in", inputs=(), shape=(6, 6, 2), fix=6),
        Conv(
            name="c",
            inputs=("in",),
            shape=(6, 6, 4),
            kernel=(3, 3),
            padding=(1, 1, 1, 1),
            weight=weight.astype(np.float32),
            bias=np.ones(4, np.float32),
            weight_fix=6,
            bias_fix=5,
            activation="relu",
            fix=4,
        ),
        Add(name="a", inputs=("c", "c"), shape=(6, 6, 4), fix=3),
        Concat(name="cat", inputs=("c", "a"), shape=(6, 6, 8), fix=3),
        Pool(
            name="p",
            inputs=("cat",),
            shape=(1, 1, 8),
            kernel=(6, 6),
            stride=(6, 6),
            kind="avg",
            factor=average_factor((6, 6)),
            is_global=True,
            fix=4,
        ),
        Reshape(name="r", inputs=("p",), shape=(8,)),
        Linear(
            name="fc",
            inputs=("r",),
            shape=(3,),
            weight=np.ones((3, 8), np.float32),
            weight_fix=5,
            has_bias=False,
            fix=2,
        ),
    )
    return Graph("Small", nodes)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xmodel") / "small.xmodel"
    write_xmodel(small_graph(), path)
    return path


def _reads_or_refuses(path: Path) -> bool:
    try:
        return isinstance(read_xmodel(path), Graph)
    except XmodelError:
        return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_off_file_is_refused(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = small.read_bytes()
    (tmp_path / "cut").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert not _reads_or_refuses(tmp_path / "cut")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_never_cause_anything_but_a_graph_or_an_xmodel_error(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "flipped").write_bytes(bytes(content))
    _reads_or_refuses(tmp_path / "flipped")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "random").write_bytes(content)
    assert not _reads_or_refuses(tmp_path / "random")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_structure_never_causes_anything_but_a_graph_or_an_xmodel_error(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    message = graph_message()()
    message.ParseFromString(small.read_bytes())
    ops = message.op_node
    for _ in range(data.draw(st.integers(1, 3))):
        op = data.draw(st.sampled_from(list(ops)))
        match data.draw(st.sampled_from(["argument", "drop", "shape", "attribute", "integers", "type", "swap"])):
            case "argument" if op.args:
                argument = data.draw(st.sampled_from(list(op.args)))
                argument.arg_ops[:] = data.draw(st.lists(st.sampled_from([o.op_name for o in ops]), max_size=3))
            case "drop" if op.args:
                del op.args[0]
            case "shape":
                sizes = st.sampled_from([0, 1, 2, 6, 8, 2**16, 2**31, 2**32 - 1])
                op.output_tensor.tensor_dim[:] = data.draw(st.lists(sizes, max_size=5))
            case "attribute" if op.op_attr:
                del op.op_attr[data.draw(st.sampled_from(sorted(op.op_attr)))]
            case "integers":
                for name in sorted(op.op_attr):
                    if op.op_attr[name].WhichOneof("value") == "int32_vec":
                        numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 9)
                        op.op_attr[name].int32_vec.value[:] = data.draw(st.lists(numbers, max_size=5))
                    elif op.op_attr[name].WhichOneof("value") == "int32_value":
                        op.op_attr[name].int32_value = data.draw(st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 9))
            case "type":
                op.op_type = data.draw(st.sampled_from(sorted({o.op_type for o in ops} | {"relu6", "maxpool2d", "magic"})))
            case "swap":
                other = data.draw(st.sampled_from(list(ops)))
                op.op_name, other.op_name = other.op_name, op.op_name
            case _:
                pass
    message.subg_root.op_name[:] = [op.op_name for op in ops]
    (tmp_path / "damaged").write_bytes(message.SerializeToString())
    _reads_or_refuses(tmp_path / "damaged")


def _damaged(small: Path, tmp_path: Path, change: Callable[[Any, dict[str, Any]], None]) -> Path:
    message = graph_message()()
    message.ParseFromString(small.read_bytes())
    change(message, {op.op_name.removeprefix("Small__"): op for op in message.op_node})
    message.subg_root.op_name[:] = [op.op_name for op in message.op_node]
    path = tmp_path / "damaged.xmodel"
    path.write_bytes(message.SerializeToString())
    return path


def _set_shape(op: Any, *sizes: int) -> None:
    op.output_tensor.tensor_dim[:] = sizes


DAMAGE: dict[str, tuple[Callable[[Any, dict[str, Any]], Any], str]] = {
    "a cycle": (lambda m, o: o["c"].args[0].arg_ops.__setitem__(0, "Small__a"), "does not come before it"),
    "an unknown producer": (lambda m, o: o["a"].args[0].arg_ops.__setitem__(0, "nobody"), "'nobody', which does not come"),
    "a missing argument": (lambda m, o: o["c"].args.pop(1), "0 arguments 'weights'"),
    "an absurd shape": (lambda m, o: _set_shape(o["in"], 1, 2**31, 2**31, 3), "2\\*\\*28 elements"),
    "a shape of zero": (lambda m, o: _set_shape(o["in"], 1, 0, 6, 2), "at least 1"),
    "another shape": (lambda m, o: _set_shape(o["a"], 1, 6, 6, 5), "its inputs make it"),
    "a batch": (lambda m, o: _set_shape(o["in"], 4, 6, 6, 2), "batch of 1"),
    "no batch": (lambda m, o: _set_shape(o["fc"], 3), "batch of 1"),
    "a constant without data": (lambda m, o: o["c_weight"].op_attr.pop("data"), "holds 0 bytes"),
    "a constant of another size": (lambda m, o: _set_shape(o["c_bias"], 5), "its shape \\[5\\] makes 20"),
    "a NaN": (lambda m, o: _put_nan(o["c_bias"]), "NaN or infinite values in 'Small__c_bias'"),
    "an operation that is not read": (
        lambda m, o: setattr(o["a"], "op_type", "hard-sigmoid"),
        "'hard-sigmoid' are the DPU's, and this tool does not read them yet",
    ),
    "an unknown operation": (lambda m, o: setattr(o["a"], "op_type", "magic"), "'magic' have no form on the DPU"),
    "a compiled operation": (lambda m, o: setattr(o["a"], "op_type", "fix2float"), "_int.xmodel"),
    "two operations of a name": (lambda m, o: setattr(o["a"], "op_name", "Small__c"), "no name of its own"),
    "no operations": (lambda m, o: m.ClearField("op_node"), "no operation of XIR; give a file that"),
    "an unsigned fix": (lambda m, o: setattr(o["a_fix"].op_attr["if_signed"], "bool_value", False), "DPU_ROUND"),
    "another rounding": (lambda m, o: setattr(o["a_fix"].op_attr["round_mode"], "string_value", "PY3"), "DPU_ROUND"),
    "16 bits": (lambda m, o: setattr(o["a_fix"].op_attr["bit_width"], "int32_value", 16), "bit width 16"),
    "a far fix position": (lambda m, o: setattr(o["a_fix"].op_attr["fix_point"], "int32_value", 10**6), "1000000"),
    "text for a number": (lambda m, o: setattr(o["a_fix"].op_attr["fix_point"], "string_value", "x"), "'x' for attribute"),
    "a kernel of another size": (lambda m, o: o["c"].op_attr["kernel"].int32_vec.value.__setitem__(0, 5), "kernel 5 x 3"),
    "a stride of zero": (lambda m, o: o["c"].op_attr["stride"].int32_vec.value.__setitem__(0, 0), "stride"),
    "groups": (lambda m, o: setattr(o["c"].op_attr["group"], "int32_value", 2), "2 groups"),
    "an unrounded reader": (lambda m, o: o["a"].args[0].arg_ops.__setitem__(0, "Small__c_relu"), "others read unrounded"),
    "weights without a fix": (lambda m, o: o["c"].args[1].arg_ops.__setitem__(0, "Small__c_weight"), "with a fix position"),
    "two outputs": (lambda m, o: o["cat"].args[0].arg_ops.__delitem__(1), "outputs|its inputs make it"),
    "a name too many": (lambda m, o: m.subg_root.edgesearch_node.add(name="more"), "changed after it was written"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, small: Path, tmp_path: Path) -> None:
    change, message = DAMAGE[what]
    path = _damaged(small, tmp_path, change)
    with pytest.raises(XmodelError, match=message) as caught:
        read_xmodel(path)
    assert str(path) in str(caught.value)


def test_an_operation_missing_at_the_end_is_noticed(small: Path, tmp_path: Path) -> None:
    message = graph_message()()
    message.ParseFromString(small.read_bytes())
    del message.op_node[-2:]
    (tmp_path / "cut.xmodel").write_bytes(message.SerializeToString())
    with pytest.raises(XmodelError, match="was cut off"):
        read_xmodel(tmp_path / "cut.xmodel")


def _put_nan(op: Any) -> None:
    size = len(op.op_attr["data"].bytes_value.value) // 4
    op.op_attr["data"].bytes_value.value = np.full(size, np.nan, "<f4").tobytes()


def test_an_empty_file_is_told_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.xmodel").touch()
    with pytest.raises(XmodelError, match="it is empty; give a file that edgesearch or Vitis AI wrote"):
        read_xmodel(tmp_path / "empty.xmodel")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(XmodelError, match="No such file"):
        read_xmodel(tmp_path / "none.xmodel")
    with pytest.raises(XmodelError, match="directory"):
        read_xmodel(tmp_path)


_READ_IN_LITTLE_MEMORY = """
import resource, sys
from edgesearch.board_eval.xmodel._reader import read_xmodel
from edgesearch.errors import XmodelError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_xmodel(sys.argv[1])
except XmodelError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("claim", ["two gigabytes of file", "two gigabytes of field", "a million operations"])
def test_large_claims_cost_no_memory(claim: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "claim.xmodel"
    if claim == "two gigabytes of file":
        path.write_bytes(small.read_bytes())
        os.truncate(path, 2**31)
    elif claim == "two gigabytes of field":
        path.write_bytes(b"\x2a\xff\xff\xff\xff\x07" + small.read_bytes())
    else:
        path.write_bytes(small.read_bytes() + b"\x2a\x00" * 10**6)
    command = [sys.executable, "-c", _READ_IN_LITTLE_MEMORY, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(result.stdout) < 400, result.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def test_an_input_whose_relu_a_concat_rounds_has_the_position_of_that(tmp_path: Path) -> None:
    nodes = (
        Input(name="x", inputs=(), shape=(4, 4, 3), fix=4),
        Activation(name="r", inputs=("x",), shape=(4, 4, 3), activation="relu"),
        Concat(name="c", inputs=("r", "r"), shape=(4, 4, 6), fix=4),
    )
    write_xmodel(Graph("g", nodes), tmp_path / "g.xmodel")
    message = graph_message()()
    message.ParseFromString((tmp_path / "g.xmodel").read_bytes())
    image = message.op_node[0].op_name
    rounded = next(op for op in message.op_node if op.op_type == "fix" and op.args[0].arg_ops[0] == image)
    for op in message.op_node:
        for argument in op.args:
            argument.arg_ops[:] = [image if name == rounded.op_name else name for name in argument.arg_ops]
    kept = [op for op in message.op_node if op.op_name != rounded.op_name]
    names = [op.op_name for op in kept]
    without = graph_message()()
    without.CopyFrom(message)
    del without.op_node[:]
    without.op_node.extend(kept)
    without.subg_root.op_name[:] = names
    (tmp_path / "g.xmodel").write_bytes(without.SerializeToString())
    graph = read_xmodel(tmp_path / "g.xmodel")
    assert graph.input.fix == 4
    images = RNG.normal(size=(3, 4, 4, 3)).astype(np.float32)
    assert np.array_equal(execute(graph, images), execute(Graph("g", nodes), images))
