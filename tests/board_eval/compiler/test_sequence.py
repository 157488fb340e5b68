from __future__ import annotations

import random

import pytest

from edgesearch.board_eval.compiler._prepare import Prepared
from edgesearch.board_eval.compiler._sequence import earlier, reads, shortest_first
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import DPUS
from edgesearch.board_eval.timing import Layer

from ._quantized import Quantized
from ._running import extreme_network, random_network


def branches() -> Graph:
    """Three branches on one feature map; the last adds a concat of the others."""
    net = Quantized(9, 9, 6)
    x = net.conv("image", 16)
    a, b = net.conv(x, 8, (5, 5), padding=(2, 2, 2, 2)), net.conv(x, 8, (3, 3), padding=(1, 1, 1, 1))
    both = net.concat(a, b)
    net.add(net.conv(x, 16), both)
    return net.graph()


def assert_in_order(layers: list[Layer], prepared: Prepared) -> None:
    """Every layer behind those that make what it reads, or a part of it."""
    whole_of = prepared.fused.written_into
    open_parts = {layer.output for layer in layers}
    for layer in layers:
        open_parts.discard(layer.output)
        unmade = set(open_parts)
        for name in open_parts:
            while name in whole_of:
                name = whole_of[name]
                unmade.add(name)
        assert not unmade & set(reads(layer)), layer.name


@pytest.mark.parametrize("seed", range(60))
def test_layers_stay_behind_what_they_read_wherever_they_move(seed: int) -> None:
    graph = branches() if seed == 0 else random_network(seed) if seed % 2 else extreme_network(11 * seed + 7)
    prepared = Prepared(graph, DPUS["B4096"])
    assert_in_order(prepared.layers, prepared)
    names = [layer.name for layer in prepared.layers]
    moved = random.Random(seed).choices(names, k=3 * len(names))
    layers = earlier(prepared.layers, moved, prepared.fused.written_into)
    assert sorted(layer.name for layer in layers) == sorted(names)
    assert_in_order(layers, prepared)


def test_the_shortest_of_branches_comes_first() -> None:
    prepared = Prepared(branches(), DPUS["B4096"])
    assert [layer.window.kernel[0] for layer in prepared.layers] == [1, 3, 5, 1]
    assert prepared.layers[-1].post == "add"
    again = shortest_first(prepared.layers, prepared.fused.written_into)
    assert [layer.name for layer in again] == [layer.name for layer in prepared.layers]


def test_a_layer_that_is_not_there_moves_nothing() -> None:
    prepared = Prepared(branches(), DPUS["B4096"])
    assert earlier(prepared.layers, ["nobody"], prepared.fused.written_into) == prepared.layers
