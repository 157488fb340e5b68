"""The output's fix position is the one of three that keeps the answers close to the float network's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network, execute, run_float, to_tensor
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering import lower
from edgesearch.objectives.quantization import _best
from edgesearch.objectives.quantization._assembly import assemble
from edgesearch.objectives.quantization._best import calibrate, find_grids, quantize_alone
from edgesearch.objectives.quantization._distance import Judge
from edgesearch.objectives.quantization._output import choose_output_position
from edgesearch.objectives.quantization._positions import MAX_FIX, Positions, obey_limits

IMAGES = np.random.default_rng(0).normal(0, 1, (160, 8, 8, 3)).astype(np.float32)
SHOWN, SEEN_BY_NONE = IMAGES[:64], IMAGES[64:]


class TwoHeads(nn.Module):
    """Ends in the sum of what two layers say about ten classes; a few images are far more sure than the rest."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.one, self.other = nn.Linear(16, 10), nn.Linear(16, 10)
        with torch.no_grad():
            for head in (self.one, self.other):
                head.weight.mul_(12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.body(x))
        x, y = (torch.flatten(nn.functional.max_pool2d(v, 8), 1) for v in (x, y))
        return self.one(x) + self.other(y)


def two_heads(seed: int = 0) -> Graph:
    return lower(TwoHeads(seed), (3, 8, 8), name="two heads")


def calibrated(graph: Graph, bits: int) -> tuple[Network, Network, Positions]:
    """The float network, the one with corrected biases, and its positions."""
    exact, images = Network.of(graph), to_tensor(SHOWN)
    with torch.no_grad():
        found = find_grids(exact, images, bits, 0)
        rounded = found.network.copy()
        positions = calibrate(rounded, images, bits, found.positions)
        obey_limits(graph, positions)
    return exact, Network(graph, found.network.weights, rounded.biases), positions


def at(positions: Positions, graph: Graph, step: int) -> Positions:
    moved = positions.copy()
    moved.values[graph.output.name] += step
    return moved


def choose(exact: Network, network: Network, positions: Positions, bits: int) -> Positions:
    with torch.no_grad():
        return choose_output_position(exact, network, positions, to_tensor(SHOWN), bits)


def distances(graph: Graph, quantized: Graph) -> np.ndarray:
    """Half of what the probabilities moved on each image, as the integers compute them."""
    p, q = (np.exp(x.astype(np.float64)) for x in (run_float(graph, SHOWN), execute(quantized, SHOWN)))
    return np.abs(p / p.sum(1, keepdims=True) - q / q.sum(1, keepdims=True)).sum(1) / 2


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 100), bits=st.sampled_from([4, 5, 8]), offset=st.integers(-2, 2))
def test_it_is_the_finer_where_that_is_closer_and_the_coarser_where_it_is_clearly_closer(
    seed: int, bits: int, offset: int
) -> None:
    graph = two_heads(seed)
    exact, network, positions = calibrated(graph, bits)
    proposed = at(positions, graph, offset)  # whatever is proposed
    stay, finer, coarser = (distances(graph, assemble(network, at(proposed, graph, step), bits)) for step in (0, 1, -1))
    gained = stay - coarser
    expected = 0
    if finer.mean() < stay.mean():
        expected = 1
    elif gained.mean() > 2 * gained.std(ddof=1) / np.sqrt(len(gained)):
        expected = -1
    assert choose(exact, network, proposed, bits) == at(proposed, graph, expected)


@pytest.mark.parametrize(("offset", "step"), [(2, -1), (0, 0), (-2, 1)])
def test_far_from_the_best_position_it_moves_towards_it(offset: int, step: int) -> None:
    graph = two_heads(2)
    exact, network, positions = calibrated(graph, 8)
    proposed = at(positions, graph, offset)
    assert choose(exact, network, proposed, 8) == at(proposed, graph, step)


def test_a_network_of_5_bits_that_ends_in_an_add_loses_less() -> None:
    graph = two_heads(1)
    exact, network, positions = calibrated(graph, 5)
    chosen = choose(exact, network, positions, 5)
    judge = Judge.of(graph, SEEN_BY_NONE)
    before, after = (judge.distances(assemble(network, p, 5)).mean() for p in (positions, chosen))
    assert after < 0.75 * before


def test_the_quantizer_takes_the_chosen_position(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = two_heads(1)
    chosen = quantize_alone(graph, SHOWN, bits=5)["best"]
    monkeypatch.setattr(_best, "choose_output_position", lambda exact, network, positions, images, bits: positions)
    proposed = quantize_alone(graph, SHOWN, bits=5)["best"]
    assert chosen.by_name[graph.output.name].fix != proposed.by_name[graph.output.name].fix
    judge = Judge.of(graph, SEEN_BY_NONE)
    assert judge.distances(chosen).mean() < 0.9 * judge.distances(proposed).mean()


def test_a_coarser_position_that_is_closer_by_a_few_images_alone_is_not_taken() -> None:
    graph = two_heads()
    exact, network, positions = calibrated(graph, 5)
    stay, coarser = (distances(graph, assemble(network, at(positions, graph, step), 5)) for step in (0, -1))
    assert coarser.mean() < 0.8 * stay.mean()
    assert choose(exact, network, positions, 5) == positions


def test_a_finer_position_than_the_shifts_allow_is_not_tried() -> None:
    picks, image = nn.Linear(192, 10), to_tensor(np.round(SHOWN))
    with torch.no_grad():
        picks.weight.copy_(torch.eye(10, 192))
        picks.bias.copy_(torch.arange(10) / 4)  # quarters, which only a finer output could tell
    network = Network.of(lower(nn.Sequential(nn.Flatten(), picks), (3, 8, 8)))
    source, layer = network.graph.input.name, network.graph.output.name
    for fix_in in (0, 1):  # the position of the input and of the products
        positions = Positions({source: fix_in, layer: 0}, {layer: 0}, {layer: 2})
        chosen = choose_output_position(network, network, positions, image, 8)
        assert chosen.values[layer] == fix_in


def test_no_position_is_finer_than_the_finest() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(192, 10)
    with torch.no_grad():
        layer.weight.div_(256), layer.bias.div_(256)
    graph = lower(nn.Sequential(nn.Flatten(), layer), (3, 8, 8))
    exact, network, positions = calibrated(graph, 8)
    for proposed in (MAX_FIX, MAX_FIX - 1):
        positions.values[graph.output.name] = proposed
        assert choose(exact, network, positions, 8).values[graph.output.name] == MAX_FIX


def test_the_proposed_position_stays_where_no_other_is_closer() -> None:
    graph = two_heads()
    heads = ("one", "other")
    silent = {
        name: dataclasses.replace(
            graph.by_name[name], weight=np.zeros((10, 16), np.float32), bias=np.arange(10, dtype=np.float32)
        )
        for name in heads
    }
    exact, network, positions = calibrated(graph.replace(silent), 8)  # whole numbers: right at every position near
    assert choose(exact, network, positions, 8) == positions
