"""Which layers a schedule makes one of, and which of their values go through memory."""

from __future__ import annotations

from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.timing._fusion import fuse
from edgesearch.board_eval.timing._schedule import schedule

from .._networks import Net, residual_net

B4096 = DPUS["B4096"]


def test_a_convolution_takes_in_a_depthwise_a_pool_or_an_addition() -> None:
    net = Net(32, 32, 3)
    x = net.pool(net.conv("image", 16))
    x = net.depthwise(net.conv(x, 32, 1))
    a = net.conv(x, 16, 1)
    b = net.conv(net.conv(a, 16), 16, name="last")
    net.add(b, a)
    layers = fuse(net.graph()).layers
    assert [(layer.kind, layer.post) for layer in layers] == [
        ("conv", "pool"), ("conv", "depthwise"), ("conv", "none"), ("conv", "none"), ("conv", "add"),
    ]  # fmt: skip
    assert layers[-1].name == "last"
    assert layers[-1].skip == a


def test_an_addition_joins_the_later_of_its_two_convolutions() -> None:
    net = Net(8, 8, 16)
    first = net.conv("image", 16, name="first")
    second = net.conv("image", 16, name="second")
    net.add(second, first)
    assert [(layer.name, layer.post, layer.skip) for layer in fuse(net.graph()).layers] == [
        ("first", "none", None),
        ("second", "add", "first"),
    ]


def test_a_convolution_read_twice_stays_alone() -> None:
    net = Net(8, 8, 16)
    x = net.conv("image", 16)
    net.add(net.pool(x, "max", 1, 1), x)
    assert [(layer.kind, layer.post) for layer in fuse(net.graph()).layers] == [
        ("conv", "none"),
        ("pool", "none"),
        ("add", "none"),
    ]


def test_a_max_pool_behind_a_concat_moves_onto_its_branches() -> None:
    net = Net(16, 16, 16)
    x = net.conv("image", 16)
    net.pool(net.concat(net.conv(x, 16, 1), net.conv(x, 32)))
    layers = fuse(net.graph()).layers
    assert [(layer.post, layer.out_shape) for layer in layers[1:]] == [("pool", (8, 8, 16)), ("pool", (8, 8, 32))]


def test_an_average_pool_behind_a_concat_stays_there() -> None:
    net = Net(16, 16, 16)
    x = net.conv("image", 16)
    net.pool(net.concat(net.conv(x, 16, 1), net.conv(x, 32)), "avg")
    assert [layer.kind for layer in fuse(net.graph()).layers] == ["conv", "conv", "conv", "pool"]


def test_a_concat_of_the_image_copies_it() -> None:
    net = Net(8, 8, 3)
    net.concat("image", net.conv("image", 16))
    program = schedule(net.graph(), B4096)
    assert [layer.kind for layer in program.layers] == ["conv", "copy"]
    assert program.saved_bytes == 8 * 8 * 19


def test_a_concat_inside_a_concat_is_written_once() -> None:
    net = Net(8, 8, 16)
    x = net.conv("image", 16)
    inner = net.concat(net.conv(x, 16, 1), net.conv(x, 16, 3))
    net.concat(inner, net.conv(x, 32, 1))
    program = schedule(net.graph(), B4096)
    assert all(layer.kind == "conv" for layer in program.layers)
    assert program.saved_bytes == 8 * 8 * 64


def test_a_flattened_image_goes_through_memory_a_flattened_pixel_does_not() -> None:
    net = Net(8, 8, 3)
    net.linear(net.flatten(net.conv("image", 16)), 10)
    assert schedule(net.graph(), B4096).spilled_bytes == 8 * 8 * 16
    assert schedule(residual_net(8, (16, 16, 16)), B4096).layers[-1].kind == "conv"


def test_a_strided_1x1_convolution_on_chip_is_thinned_out_first() -> None:
    net = Net(16, 16, 16)
    x = net.conv("image", 16)
    net.add(net.conv(x, 32, 3, 2), net.conv(x, 32, 1, 2))
    program = schedule(net.graph(), B4096)
    assert [layer.kind for layer in program.layers] == ["conv", "downsample", "conv", "conv"]
    assert program.layers[3].in_shape == (8, 8, 16)


def test_a_thinned_feature_map_that_is_added_to_what_is_made_of_it_is_kept_for_that() -> None:
    net = Net(1, 1, 16)
    x = net.conv("image", 16, 1)
    net.add(net.conv(x, 16, 1, 2), x)  # of one pixel, a stride changes nothing
    program = schedule(net.graph(), B4096)
    assert [layer.kind for layer in program.layers] == ["conv", "downsample", "conv"]
