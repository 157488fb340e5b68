from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.graph._graph import Conv
from edgesearch.board_eval.lowering import lower
from edgesearch.board_eval.lowering._widths import channel_groups, pruned_estimate, with_widths
from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing._timing import time_graph
from edgesearch.errors import GraphError
from edgesearch.objectives.pruning._groups import find_groups

from .._networks import Net, residual_net


def test_operands_of_an_addition_are_one_group_and_the_result_is_none() -> None:
    net = Net(16, 16, 3)
    x = net.conv("image", 16, name="stem")
    x = net.add(net.conv(net.conv(x, 8, name="inner"), 16, name="outer"), x)
    net.head(net.conv(x, 32, name="last"))
    assert channel_groups(net.graph()) == (("stem", "outer"), ("inner",), ("last",))


def test_channels_tied_to_the_image_or_to_a_concat_stay() -> None:
    net = Net(8, 8, 16)
    a = net.add(net.conv("image", 16, name="tied"), "image")
    joined = net.concat(net.conv(a, 8, name="left"), net.conv(a, 8, name="right"))
    net.head(net.conv(net.add(joined, net.conv(a, 16, name="other")), 32, name="free"))
    assert channel_groups(net.graph()) == (("free",),)


def test_channels_that_are_made_or_read_in_groups_stay() -> None:
    layers = [nn.Conv2d(3, 32, 3), nn.Conv2d(32, 48, 1), nn.Conv2d(48, 48, 3, groups=3), nn.ReLU(), nn.Conv2d(48, 32, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    graph = lower(model, (3, 8, 8))
    assert channel_groups(graph) == (("0",), ("4",))
    assert [group.name for group in find_groups(model, (3, 8, 8))] == ["0", "4"]
    assert [node.shape[-1] for node in pruned_estimate(graph, 0.2, granularity=8) if isinstance(node, Conv)][1:3] == [48, 48]
    with pytest.raises(GraphError, match="3 groups of 47 channels to 48"):
        with_widths(graph, {"1": 47})


@given(st.floats(0.05, 0.9), st.sampled_from([1, 2, 16]))
@settings(deadline=None, max_examples=15)
def test_an_estimate_has_the_macs_asked_for_and_is_faster(ratio: float, granularity: int) -> None:
    graph = residual_net(32, (256, 256, 256), channels=3)
    pruned = pruned_estimate(graph, ratio, granularity=granularity)
    assert pruned.macs == pytest.approx((1 - ratio) * graph.macs, abs=0.2 * graph.macs)
    assert all(node.shape[-1] % granularity == 0 for node in pruned.nodes if isinstance(node, Conv))
    assert pruned.output.shape == graph.output.shape
    profile = load_profile("zcu104")
    assert time_graph(pruned, profile).dpu_s <= time_graph(graph, profile).dpu_s


def test_nothing_removed_is_the_same_network() -> None:
    graph = residual_net(32, (20, 30, 40))
    assert [node.shape for node in pruned_estimate(graph, 0.0)] == [node.shape for node in graph]


def test_widths_that_cannot_be() -> None:
    graph = residual_net(16, (16, 16, 16))
    convs = [node.name for node in graph.nodes if isinstance(node, Conv)]
    with pytest.raises(GraphError, match="'gap' is not a convolution"):
        with_widths(graph, {"gap": 8})
    with pytest.raises(GraphError, match="cannot have 0 output channels"):
        with_widths(graph, {convs[0]: 0})
    with pytest.raises(GraphError, match="add"):
        with_widths(graph, {convs[2]: 8})
    with pytest.raises(GraphError, match=r"outside 0..0.95"):
        pruned_estimate(graph, 0.99)
    with pytest.raises(GraphError, match="granularity of 0"):
        pruned_estimate(graph, 0.5, granularity=0)
