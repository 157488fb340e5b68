from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesearch.board_eval.compiler._legal import legal
from edgesearch.board_eval.compiler._sequence import earlier, reads, shortest_first
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.timing import Layer, fuse

from .._networks import Net
from ._running import random_network


def in_order(layers: list[Layer], written_into: Mapping[str, str]) -> bool:
    """Whether every layer comes behind those that make what it reads, all parts of a concat counted."""
    last: dict[str, int] = {}
    for number, layer in enumerate(layers):
        name: str | None = layer.output
        while name is not None:
            last[name] = number
            name = written_into.get(name)
    return all(last.get(name, -1) < number for number, layer in enumerate(layers) for name in reads(layer))


def test_the_shorter_of_two_branches_comes_first() -> None:
    net = Net(32, 32, 16)
    x = net.conv("image", 16)
    long, short = net.conv(x, 64, k=3, name="long"), net.conv(x, 64, k=1, name="short")
    net.conv(net.concat(long, short), 16, name="end")
    fused = fuse(net.graph())
    names = [layer.name for layer in shortest_first(fused.layers, fused.written_into)]
    assert names == [
        layer.name for layer in earlier(shortest_first(fused.layers, fused.written_into), ["end"], fused.written_into)
    ]
    assert names.index("short") < names.index("long") < names.index("end")


def test_what_reads_another_layers_result_stays_behind_it() -> None:
    net = Net(32, 32, 16)
    x = net.conv("image", 64, k=3, name="a")
    net.conv(x, 16, k=1, name="b")
    layers = list(fuse(net.graph()).layers)
    assert shortest_first(layers, {}) == layers
    assert earlier(layers, ["b", "a", "unknown"], {}) == layers


@pytest.mark.parametrize("seed", range(20))
@given(data=st.data())
@settings(deadline=None, max_examples=5)
def test_any_order_is_one_in_which_layers_can_be_executed(seed: int, data: st.DataObject) -> None:
    fused = fuse(legal(random_network(seed), DPUS["B4096"]))
    layers, parts = list(fused.layers), fused.written_into
    moved = data.draw(st.lists(st.sampled_from([layer.name for layer in layers]), max_size=8))
    for out in (shortest_first(layers, parts), earlier(layers, moved, parts)):
        assert sorted(layer.name for layer in out) == sorted(layer.name for layer in layers)
        assert in_order(out, parts)
