"""Operations that pytorch_nndct writes and this program does not: they are read and executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesearch.board_eval.execution import execute, execute_all
from edgesearch.board_eval.execution._reference import reference_values
from edgesearch.board_eval.graph import Activation, Conv, Depthwise, Graph, Input, Linear, Pool, Reshape, average_factor
from edgesearch.board_eval.xmodel._reader import read_xmodel
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.board_eval.xmodel._writer import _set, write_xmodel
from edgesearch.errors import XmodelError

IMAGES = np.random.default_rng(0).integers(-128, 128, (2, 6, 6, 4)).astype(np.int8)


class File:
    """An xmodel written operation by operation."""

    def __init__(self) -> None:
        self.message = graph_message()(graph_name="Net")

    def op(self, name: str, kind: str, shape: tuple[int, ...], /, **arguments: list[str]) -> Any:
        op = self.message.op_node.add(op_name=name, op_type=kind)
        for argument, sources in arguments.items():
            op.args.add(arg_name=argument, arg_ops=sources)
        op.output_tensor.tensor_name = name
        op.output_tensor.tensor_dim.extend(shape)
        return op

    def const(self, name: str, values: np.ndarray, fix: int | None = None) -> str:
        op = self.op(name, "const", values.shape)
        _set(op, shape=list(values.shape), data_type="float32")
        op.op_attr["data"].bytes_value.value = values.astype("<f4").tobytes()
        return name if fix is None else self.fix(name, values.shape, fix)

    def fix(self, source: str, shape: tuple[int, ...], position: int) -> str:
        _set(self.op(f"{source}_fix", "fix", shape, input=[source]), fix_point=position, bit_width=8)
        return f"{source}_fix"

    def image(self, fix: int | None = 6) -> str:
        _set(self.op("in", "data", (1, 6, 6, 4)), shape=[1, 6, 6, 4], data_type="FLOAT32")
        return "in" if fix is None else self.fix("in", (1, 6, 6, 4), fix)

    def read(self, folder: Path) -> Graph:
        self.message.subg_root.op_name.extend(op.op_name for op in self.message.op_node)
        (folder / "net.xmodel").write_bytes(self.message.SerializeToString())
        return read_xmodel(folder / "net.xmodel")


def check_execution(graph: Graph) -> None:
    for image, logits in zip(IMAGES, execute(graph, IMAGES), strict=True):
        expected = reference_values(graph, image)[graph.output.name]
        np.testing.assert_array_equal(logits, np.ldexp(expected, -graph.output.fix).astype(np.float32))


def test_scale_is_a_factor_and_a_shift_per_channel(tmp_path: Path) -> None:
    file = File()
    image = file.image()
    weight = file.const("gamma", np.array([0.5, -1.25, 0, 1.75], np.float32), 5)
    bias = file.const("beta", np.array([0.25, 1, -2, 0], np.float32), 4)
    file.op("norm", "scale", (1, 6, 6, 4), input=[image], scale=[weight], bias=[bias])
    file.op("norm_relu", "relu", (1, 6, 6, 4), input=["norm"])
    file.fix("norm_relu", (1, 6, 6, 4), 4)
    graph = file.read(tmp_path)
    node = graph.output
    assert isinstance(node, Depthwise)
    assert (node.scale, node.activation, node.weight_fix, node.bias_fix) == (True, "relu", 5, 4)
    x = IMAGES / 64 * np.array([0.5, -1.25, 0, 1.75]) + np.array([0.25, 1, -2, 0])
    expected = np.clip(np.floor(np.maximum(x, 0) * 16 + 0.5), -128, 127) / 16
    np.testing.assert_array_equal(execute(graph, IMAGES), expected)
    check_execution(graph)
    write_xmodel(graph, tmp_path / "again.xmodel")  # as a depthwise convolution, which the DPU has
    np.testing.assert_array_equal(execute(read_xmodel(tmp_path / "again.xmodel"), IMAGES), expected)


def test_scale_with_the_wrong_number_of_factors_is_refused(tmp_path: Path) -> None:
    file = File()
    image = file.image()
    weight = file.const("gamma", np.ones(3, np.float32), 5)
    file.op("norm", "scale", (1, 6, 6, 4), input=[image], scale=[weight], bias=[])
    file.fix("norm", (1, 6, 6, 4), 4)
    with pytest.raises(XmodelError, match=r"'norm'.*factors of shape \[3\]"):
        file.read(tmp_path)


@pytest.mark.parametrize("kind", ["relu", "relu6"])
@pytest.mark.parametrize("pool", ["maxpool2d", "avgpool2d"])
def test_a_relu_behind_a_pool_without_rounding_between(tmp_path: Path, pool: str, kind: str) -> None:
    file = File()
    op = file.op("pool", pool, (1, 3, 3, 4), input=[file.image()])
    _set(op, kernel=[2, 2], stride=[2, 2], pad=[0, 0, 0, 0], pad_mode="FLOOR")
    source = "pool"
    if pool == "avgpool2d":
        file.op("mul", "mul", (1, 3, 3, 4), input=["pool", file.const("factor", np.array([0.9375], np.float32))])
        source = "mul"
    file.op("relu", kind, (1, 3, 3, 4), input=[source])
    file.fix("relu", (1, 3, 3, 4), 3)
    graph = file.read(tmp_path)
    assert [node.fix for node in graph] == [6, None, 3]
    check_execution(graph)
    write_xmodel(graph, tmp_path / "again.xmodel")
    assert [node.fix for node in read_xmodel(tmp_path / "again.xmodel")] == [6, None, 3]


def test_a_relu_behind_the_input_without_rounding_between(tmp_path: Path) -> None:
    file = File()
    file.op("relu", "relu", (1, 6, 6, 4), input=[file.image(fix=None)])
    file.fix("relu", (1, 6, 6, 4), 5)
    graph = file.read(tmp_path)
    assert isinstance(graph.output, Activation)
    assert (graph.input.fix, graph.output.fix) == (5, 5)
    reals = (IMAGES / 32 + 0.015).astype(np.float32)
    expected = np.clip(np.floor(np.maximum(reals, 0) * np.float64(32) + 0.5), -128, 127) / 32
    np.testing.assert_array_equal(execute(graph, reals), expected)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("argument", [True, False])
def test_a_mean_over_height_and_width_and_a_linear_layer_without_bias(tmp_path: Path, keep: bool, argument: bool) -> None:
    file = File()
    shape = (1, 1, 1, 4) if keep else (1, 4)
    op = file.op("mean", "reduction_mean", shape, input=[file.image()])
    op.op_attr["axis"].int32_vec.value.extend([1, 2])
    _set(op, keep_dims=keep)
    factor = float(np.float32(average_factor((6, 6))))
    file.op("mul", "mul", shape, input=["mean", file.const("factor", np.array([factor], np.float32))])
    value = file.fix("mul", shape, 5)
    if keep:
        op = file.op("view", "reshape", (1, 4), input=[value])
        _set(op, shape=[1, -1])
        value = "view"
    weight = file.const("weight", np.arange(-6, 6, dtype=np.float32).reshape(3, 4) / 8, 3)
    bias: dict[str, list[str]] = {"bias": []} if argument else {}  # nndct writes the argument, empty
    op = file.op("fc", "matmul", (1, 3), input=[value, weight], **bias)
    _set(op, transpose_a=False, transpose_b=True)
    file.fix("fc", (1, 3), 4)
    graph = file.read(tmp_path)
    kinds = [type(node) for node in graph]
    assert kinds == [Input, Pool, Reshape, Linear]
    pool, linear = graph.nodes[1], graph.output
    assert isinstance(pool, Pool)
    assert isinstance(linear, Linear)
    assert (pool.kernel, pool.factor, linear.has_bias) == ((6, 6), factor, False)
    check_execution(graph)


def test_a_layer_without_bias_is_written_with_an_empty_argument(tmp_path: Path) -> None:
    nodes = (
        Input(name="in", inputs=(), shape=(4,), fix=3),
        Linear(name="fc", inputs=("in",), shape=(2,), weight=np.ones((2, 4), np.float32), weight_fix=2, has_bias=False, fix=2),
    )
    write_xmodel(Graph("Net", nodes), tmp_path / "net.xmodel")
    message = graph_message()()
    message.ParseFromString((tmp_path / "net.xmodel").read_bytes())
    fc = next(op for op in message.op_node if op.op_type == "matmul")
    assert {a.arg_name: list(a.arg_ops) for a in fc.args}["bias"] == []


# -- padding as an operation of its own


def padded_file(position: int, *, kernel: int = 3, mode: str = "CONSTANT", paddings: list[int] | None = None) -> File:
    """An image at position 6, padded to the right and below, rounded at `position`, and a convolution of stride 2."""
    file = File()
    op = file.op("pad", "pad", (1, 7, 8, 4), input=[file.image()])
    op.op_attr["paddings"].int32_vec.value.extend([0, 0, 0, 1, 0, 2, 0, 0] if paddings is None else paddings)
    op.op_attr["constant_values"].float_vec.value.extend([0.0] * 8)
    _set(op, mode=mode)
    padded = file.fix("pad", (1, 7, 8, 4), position)
    weight = np.random.default_rng(1).integers(-128, 128, (2, kernel, kernel, 4)).astype(np.float32) / 64
    name = file.const("weight", weight, 6)
    shape = (1, (7 - kernel) // 2 + 1, (8 - kernel) // 2 + 1, 2)
    op = file.op("conv", "conv2d", shape, input=[padded], weights=[name], bias=[])
    _set(op, kernel=[kernel, kernel], stride=[2, 2], dilation=[1, 1], pad=[0, 0, 0, 0], pad_mode="FLOOR", group=1)
    file.fix("conv", shape, 3)
    return file


def expected_of_padded(position: int, graph: Graph) -> np.ndarray:
    weight = graph.output.weight
    kernel = weight.shape[1]
    image = np.clip(np.floor(IMAGES * 2.0 ** (position - 6) + 0.5), -128, 127) / 2.0**position
    image = np.pad(image, ((0, 0), (0, 1), (0, 2), (0, 0)))
    sums = np.zeros((2, (7 - kernel) // 2 + 1, (8 - kernel) // 2 + 1, 2))
    for row in range(sums.shape[1]):
        for column in range(sums.shape[2]):
            window = image[:, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel]
            sums[:, row, column] = np.einsum("nhwc,ohwc->no", window, weight)
    return np.clip(np.floor(sums * 8 + 0.5), -128, 127) / 8


def test_zeros_around_an_image_are_the_padding_of_the_layer_behind(tmp_path: Path) -> None:
    graph = padded_file(6).read(tmp_path)
    assert [type(node) for node in graph] == [Input, Conv]
    assert graph.output.padding == (0, 2, 0, 1)
    np.testing.assert_array_equal(execute(graph, IMAGES), expected_of_padded(6, graph))
    check_execution(graph)


@pytest.mark.parametrize(("position", "kernel"), [(4, 3), (7, 3), (6, 1)])
def test_padding_that_rounds_or_that_the_layer_cannot_take_stays_by_itself(tmp_path: Path, position: int, kernel: int) -> None:
    """Rounded anew, or in front of a kernel of 1 x 1, whose own padding the DPU does not have."""
    graph = padded_file(position, kernel=kernel).read(tmp_path)
    pad = graph.nodes[1]
    assert isinstance(pad, Pool)
    assert (pad.kernel, pad.padding, pad.fix) == ((1, 1), (0, 2, 0, 1), position)
    np.testing.assert_array_equal(execute(graph, IMAGES), expected_of_padded(position, graph))
    check_execution(graph)
    assert "pad_fix" in execute_all(graph, IMAGES)
    write_xmodel(graph, tmp_path / "again.xmodel")  # as an average over one pixel, which the DPU has
    np.testing.assert_array_equal(execute(read_xmodel(tmp_path / "again.xmodel"), IMAGES), execute(graph, IMAGES))


def test_zeros_in_front_of_a_max_pool_may_win_its_maxima(tmp_path: Path) -> None:
    file = File()
    op = file.op("pad", "pad", (1, 8, 8, 4), input=[file.image()])
    op.op_attr["paddings"].int32_vec.value.extend([0, 0, 1, 1, 1, 1, 0, 0])
    _set(op, mode="CONSTANT")
    op = file.op("pool", "maxpool2d", (1, 4, 4, 4), input=[file.fix("pad", (1, 8, 8, 4), 6)])
    _set(op, kernel=[2, 2], stride=[2, 2], pad=[0, 0, 0, 0], pad_mode="FLOOR")
    file.fix("pool", (1, 4, 4, 4), 6)
    graph = file.read(tmp_path)
    image = np.pad(IMAGES.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = image.reshape(2, 4, 2, 4, 2, 4).max((2, 4)) / 64
    np.testing.assert_array_equal(execute(graph, IMAGES), expected)


@pytest.mark.parametrize(
    ("mode", "paddings", "value", "message"),
    [
        ("REFLECT", [0, 0, 0, 1, 0, 2, 0, 0], 0.0, "in mode 'REFLECT', which the DPU does not do; pad with zeros"),
        ("CONSTANT", [0, 0, 0, 1, 0, 2, 0, 0], 1.0, "by other values than zero"),
        ("CONSTANT", [0, 0, 0, 1, 0, 2, 0, 4], 0.0, "other axes than the height and width"),
        ("CONSTANT", [0, 1, 0, 2], 0.0, "expected 8 integers"),
        ("CONSTANT", [0, 0, 0, 2, 0, 2, 0, 0], 0.0, "which its paddings do not"),
    ],
)
def test_padding_that_the_dpu_does_not_do(tmp_path: Path, mode: str, paddings: list[int], value: float, message: str) -> None:
    file = padded_file(6, mode=mode, paddings=paddings)
    next(op for op in file.message.op_node if op.op_name == "pad").op_attr["constant_values"].float_vec.value[0] = value
    with pytest.raises(XmodelError, match=message):
        file.read(tmp_path)


# -- batch-norm of a vector


@pytest.mark.parametrize("relu", [True, False])
def test_a_scale_of_a_vector(tmp_path: Path, relu: bool) -> None:
    """As pytorch_nndct writes a BatchNorm1d behind a linear layer."""
    file = File()
    _set(file.op("in", "data", (1, 4)), shape=[1, 4], data_type="FLOAT32")
    image = file.fix("in", (1, 4), 6)
    weight = file.const("gamma", np.array([0.5, -1.25, 0, 1.75], np.float32), 5)
    bias = file.const("beta", np.array([0.25, 1, -2, 0], np.float32), 4)
    file.op("norm", "scale", (1, 4), input=[image], scale=[weight], bias=[bias])
    if relu:
        file.op("relu", "relu", (1, 4), input=["norm"])
    value = file.fix("relu" if relu else "norm", (1, 4), 4)
    matrix = file.const("weight", np.arange(-6, 6, dtype=np.float32).reshape(3, 4) / 8, 3)
    _set(file.op("fc", "matmul", (1, 3), input=[value, matrix], bias=[]), transpose_a=False, transpose_b=True)
    file.fix("fc", (1, 3), 4)
    graph = file.read(tmp_path)
    assert [type(node) for node in graph] == [Input, Reshape, Depthwise, Reshape, Linear]
    images = IMAGES[:, 0, 0]
    x = images / 64 * np.array([0.5, -1.25, 0, 1.75]) + np.array([0.25, 1, -2, 0])
    x = np.clip(np.floor((np.maximum(x, 0) if relu else x) * 16 + 0.5), -128, 127) / 16
    expected = np.clip(np.floor(x @ (np.arange(-6, 6).reshape(3, 4) / 8).T * 16 + 0.5), -128, 127) / 16
    np.testing.assert_array_equal(execute(graph, images), expected)


def test_a_scaled_vector_as_the_output_is_a_vector(tmp_path: Path) -> None:
    file = File()
    _set(file.op("in", "data", (1, 4)), shape=[1, 4], data_type="FLOAT32")
    weight = file.const("gamma", np.array([0.5, -1.25, 0, 1.75], np.float32), 5)
    file.op("norm", "scale", (1, 4), input=[file.fix("in", (1, 4), 6)], scale=[weight], bias=[])
    file.fix("norm", (1, 4), 4)
    assert execute(file.read(tmp_path), IMAGES[:, 0, 0]).shape == (2, 4)
