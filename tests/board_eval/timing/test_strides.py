from __future__ import annotations

import pytest

from edgesearch.board_eval.graph._graph import Conv
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.timing._instructions import Kind
from edgesearch.board_eval.timing._schedule import schedule
from edgesearch.board_eval.timing._strides import strides_moved_back

from .._networks import Net


def test_a_convolution_that_only_strided_1x1_convolutions_read_takes_their_stride() -> None:
    net = Net(16, 16, 16)
    x = net.conv("image", 32, 3, name="wide")
    net.concat(net.conv(x, 16, 1, 2, name="a"), net.conv(x, 16, 1, 2, name="b"))
    moved = strides_moved_back(net.graph())
    wide, a = moved.by_name["wide"], moved.by_name["a"]
    assert isinstance(wide, Conv)
    assert isinstance(a, Conv)
    assert (wide.stride, wide.shape, a.stride, a.shape) == ((2, 2), (8, 8, 32), (1, 1), (8, 8, 16))
    assert moved.output.shape == net.graph().output.shape


def test_a_stride_goes_through_an_addition_to_the_convolutions_before_it() -> None:
    net = Net(32, 32, 64)
    skip = net.conv("image", 64, 1, name="skip")
    narrow = net.conv(net.conv(skip, 16, 1, name="down"), 16, 3, name="middle")
    x = net.add(net.conv(narrow, 64, 1, name="up"), skip)
    net.add(net.conv(x, 32, 1, 2, name="left"), net.conv(x, 32, 1, 2, name="right"))
    graph = net.graph()
    moved = strides_moved_back(graph)
    strides = {node.name: node.stride for node in moved.nodes if isinstance(node, Conv)}
    assert strides == {
        "skip": (1, 1), "down": (1, 1), "middle": (2, 2), "up": (1, 1), "left": (1, 1), "right": (1, 1),
    }  # fmt: skip
    assert [node.name for node in moved.nodes if node.name.startswith("skip/every")] == [f"skip/every2x2/{x}"]
    # cycles per group of 16 channels: rows in eights, columns, window, words of input; "middle" and "up" make a quarter
    skip, down, middle, up, last = 4 * 4 * 32 * 4, 4 * 32 * 4, 2 * 16 * 9, 4 * 2 * 16, 2 * 2 * 2 * 16 * 4
    assert schedule(graph, DPUS["B4096"]).cycles(Kind.CONV) == skip + down + middle + up + last


@pytest.mark.parametrize("other", [(3, 2), (1, 1), (2, 2)])
def test_another_reader_keeps_the_stride_where_it_is(other: tuple[int, int]) -> None:
    net = Net(16, 16, 16)
    x = net.conv("image", 32, 3)
    kernel, stride = other
    net.conv(x, 16, kernel, stride)
    net.conv(x, 16, 1, 2)
    graph = net.graph()
    assert strides_moved_back(graph) is graph


def test_what_nothing_follows_is_left_alone() -> None:
    net = Net(16, 16, 16)
    net.conv("image", 32, 1, 2)
    graph = net.graph()
    assert strides_moved_back(graph) is graph
