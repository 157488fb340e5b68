from __future__ import annotations

import numpy as np
import pytest

from edgesearch.board_eval.compiler import Options, compile_graph
from edgesearch.board_eval.compiler._compile import finished
from edgesearch.board_eval.compiler._legal import legal
from edgesearch.board_eval.compiler._placement import Choices, place
from edgesearch.board_eval.compiler._search import best_schedule, moves_from, scheduled
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import DPUS, load_profile

from .._networks import Net, residual_net
from ._running import EVERYTHING, differing, faults, random_images, random_network

B4096 = DPUS["B4096"]
CONSTANTS = load_profile("zcu104").constants


def branches() -> Graph:
    net = Net(28, 28, 64)
    x = net.conv("image", 64, k=3)
    parts = [net.conv(x, 64, k=k) for k in (1, 3, 5)]
    return net.head(net.conv(net.concat(*parts), 128, k=3))


@pytest.mark.parametrize("graph", [branches(), residual_net(56, (64, 128, 200))], ids=["branches", "residual"])
def test_more_tries_are_never_slower(graph: Graph) -> None:
    ready = legal(graph, B4096)
    times = [best_schedule(ready, B4096, CONSTANTS, tries=tries).cycles for tries in (0, 4, 16)]
    assert times[0] == scheduled(ready, B4096, CONSTANTS).cycles
    assert times == sorted(times, reverse=True)


def test_the_same_tries_give_the_same_code() -> None:
    codes = {compile_graph(branches(), B4096, Options(tries=8)).code for _ in range(2)}
    assert len(codes) == 1


def test_no_time_is_no_search() -> None:
    ready = legal(branches(), B4096)
    assert best_schedule(ready, B4096, CONSTANTS, tries=50, seconds=0.0).cycles == scheduled(ready, B4096, CONSTANTS).cycles


def test_choices_change_the_plan() -> None:
    ready = legal(residual_net(32, (16, 40, 64)), B4096)
    plan = place(ready, B4096)
    kept = next(layer.output.name for layer in plan.layers if layer.output.external is None)
    outside = place(ready, B4096, Choices(outside=frozenset([kept])))
    assert kept in outside.external
    layer = plan.layers[1].layer.name
    cut = place(ready, B4096, Choices(passed=((layer, 3),)))
    assert any(a.tiles != b.tiles or a.blocks != b.blocks for a, b in zip(plan.layers, cut.layers, strict=True))


@pytest.mark.parametrize("seed", range(15))
def test_any_choices_give_the_integers(seed: int) -> None:
    """A walk through moves of all kinds, faster or not."""
    graph, random = random_network(seed, largest=24), np.random.default_rng(seed)
    ready = legal(graph, B4096)
    best, choices = scheduled(ready, B4096, CONSTANTS), Choices()
    for _ in range(6):
        moves = list(moves_from(best, choices))
        if not moves:
            break
        choices = moves[int(random.integers(len(moves)))]
        best = scheduled(ready, B4096, CONSTANTS, choices)
    compiled = finished(graph, B4096, best, EVERYTHING)
    assert faults(compiled) == ()
    assert differing(compiled, random_images(graph, 1, seed), seed) == 0
