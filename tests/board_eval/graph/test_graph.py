from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.board_eval.graph._graph import (
    Add,
    Concat,
    Conv,
    Depthwise,
    Graph,
    Input,
    Linear,
    Node,
    Pool,
    Reshape,
    window_output,
    without_weights,
)
from edgesearch.errors import GraphError

IMAGE = Input(name="in", inputs=(), shape=(8, 6, 4), fix=7)


def conv(**changes: object) -> Conv:
    node = Conv(
        name="c",
        inputs=("in",),
        shape=(8, 6, 5),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        weight=np.ones((5, 3, 3, 4), np.float32),
        bias=np.ones(5, np.float32),
        weight_fix=5,
        bias_fix=5,
        fix=3,
    )
    return dataclasses.replace(node, **changes)


def test_counts_are_those_of_one_image() -> None:
    depthwise = Depthwise(name="d", inputs=("c",), shape=(8, 6, 5), kernel=(1, 1), has_bias=False)
    reshape = Reshape(name="r", inputs=("d",), shape=(240,))
    graph = Graph("G", (IMAGE, conv(), depthwise, reshape, Linear(name="fc", inputs=("r",), shape=(3,))))
    assert graph.macs == 8 * 6 * 5 * 9 * 4 + 8 * 6 * 5 + 240 * 3
    assert graph.parameters == (5 * 9 * 4 + 5) + 5 + (240 * 3 + 3)
    assert graph.weight_bytes == graph.parameters
    assert dataclasses.replace(graph, bits=5).weight_bytes == -(-graph.parameters * 5 // 8)


def test_consumers_inputs_and_outputs() -> None:
    graph = Graph("G", (IMAGE, conv(), Add(name="a", inputs=("c", "c"), shape=(8, 6, 5), fix=2)))
    assert [n.name for n in graph.consumers["in"]] == ["c"]
    assert [n.name for n in graph.consumers["c"]] == ["a"]
    assert (graph.input.name, graph.output.name) == ("in", "a")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "no nodes"),
        ((IMAGE, conv(), conv()), "two nodes named 'c'"),
        ((conv(),), "reads 'in', which does not come before it"),
        ((IMAGE, dataclasses.replace(IMAGE, name="two")), "2 inputs"),
        ((dataclasses.replace(IMAGE, shape=(0, 6, 4)),), "sizes of at least 1"),
        ((dataclasses.replace(IMAGE, shape=()),), r"node 'in' has shape \(\), expected whole numbers"),
        ((dataclasses.replace(IMAGE, shape=(8.0, 6, 4)),), r"node 'in' has shape \(8.0, 6, 4\), expected whole numbers"),
        ((IMAGE, conv(shape=(8, 6, 0), weight=None)), r"node 'c' has shape \(8, 6, 0\)"),
        ((IMAGE, conv(shape=(8, 6, 7))), "conv 'c': weights"),
        ((IMAGE, conv(shape=(7, 6, 5))), r"says its shape is \(7, 6, 5\), its inputs make it \(8, 6, 5\)"),
        ((IMAGE, conv(kernel=(11, 3), weight=None)), "larger than its input"),
        ((IMAGE, conv(stride=(0, 1))), "stride"),
        ((IMAGE, conv(shape=(8,))), r"expected \(H, W, C\)"),
        ((IMAGE, Linear(name="l", inputs=("in",), shape=(3,))), "expected a vector"),
        ((IMAGE, conv(), Add(name="a", inputs=("in", "c"), shape=(8, 6, 4))), "expected two equal ones"),
        ((IMAGE, conv(), Concat(name="a", inputs=("in", "c"), shape=(8, 6, 9), axis=0)), "on axis 0"),
        ((IMAGE, Concat(name="a", inputs=(), shape=(8, 6, 9))), "on axis 2"),
        ((IMAGE, Reshape(name="r", inputs=("in",), shape=(5,))), "changes the number of elements"),
        ((IMAGE, Reshape(name="r", inputs=(), shape=(5,))), "0 inputs, expected one"),
    ],
)
def test_a_network_that_is_not_well_formed_is_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph("G", nodes)


def test_quantized_means_every_tensor_that_needs_a_position_has_one() -> None:
    def network(c: Conv, concat_fix: int | None = 2) -> Graph:
        joined = Concat(name="j", inputs=("in", "c"), shape=(8, 6, 9), fix=concat_fix)
        return Graph("G", (IMAGE, c, joined, Reshape(name="r", inputs=("j",), shape=(432,))))

    assert network(conv()).quantized
    assert network(conv(fix=None)).quantized  # only the concat reads it
    assert not network(conv(), concat_fix=None).quantized
    assert not network(conv(weight_fix=None)).quantized
    assert not network(conv(bias_fix=None)).quantized
    assert network(conv(bias=None, has_bias=False, bias_fix=None)).quantized
    assert network(conv()).fix_of("r") == 2
    graph = Graph("G", (IMAGE, conv(fix=None), Add(name="a", inputs=("c", "c"), shape=(8, 6, 5), fix=2)))
    assert not graph.quantized


@given(
    size=st.integers(1, 30),
    pad=st.integers(0, 4),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    ceil=st.booleans(),
)
def test_window_output_counts_windows(size: int, pad: int, kernel: int, stride: int, dilation: int, ceil: bool) -> None:
    span = (kernel - 1) * dilation + 1
    if size + pad < span:
        return
    starts = [at for at in range(0, size + pad, stride) if at + span <= size + pad]
    left_over = (size + pad - span) % stride != 0
    assert window_output(size, pad, kernel, stride, dilation, ceil=ceil) == len(starts) + (ceil and left_over)


def test_without_weights_keeps_everything_else() -> None:
    graph = Graph(
        "G", (IMAGE, conv(), Pool(name="p", inputs=("c",), shape=(4, 3, 5), kind="max", kernel=(2, 2), stride=(2, 2)))
    )
    stripped = without_weights(graph)
    assert stripped.by_name["c"].weight is None
    assert (stripped.macs, stripped.parameters) == (graph.macs, graph.parameters)
