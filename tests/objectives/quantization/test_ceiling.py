"""Weights and values that are too small for the finest grid are scaled by octaves where the network has room for them."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.board_eval import execute
from edgesearch.board_eval.execution import Network, run_float
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.objectives import quantize
from edgesearch.objectives.quantization._ceiling import _Lost, _lost, _moves, octaves_under_the_ceiling
from edgesearch.objectives.quantization._channels import find_channels
from edgesearch.objectives.quantization._positions import MAX_FIX

IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype(np.float32)


class Chain(nn.Module):
    """Three layers, the second of which stands in a residual block; each may be scaled without changing the function."""

    def __init__(self, first: float = 1.0, second: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12 * 16, 5)
        with torch.no_grad():
            self.a.weight.mul_(first), self.a.bias.mul_(first)
            self.b.weight.mul_(second / first), self.b.bias.mul_(second)
            self.c.bias.mul_(second)
            self.head.weight.div_(second)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = nn.functional.max_pool2d(torch.relu(self.c(x) + x), 2)
        found: Tensor = self.head(x.flatten(1))
        return found


def graph_of(first: float = 1.0, second: float = 1.0) -> Graph:
    return lower(Chain(first, second), (3, 8, 8), target=None)


def error(graph: Graph) -> float:
    """The share of the float logits' power that the integers' error has."""
    exact = run_float(graph, IMAGES)
    return float(((execute(quantize(graph, IMAGES, method="best"), IMAGES) - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize(("first", "second"), [(2.0**-10, 1.0), (2.0**12, 1.0), (1.0, 2.0**-14), (2.0**-8, 2.0**-16)])
def test_a_network_that_is_scaled_by_octaves_loses_nothing(first: float, second: float) -> None:
    assert error(graph_of(first, second)) < 1.2 * error(graph_of()) < 0.01


def octaves(graph: Graph) -> Tensor:
    network, channels = Network.of(graph), find_channels(graph)
    ranges = {node.name: torch.ones(node.shape[-1]) for node in network.layers()}
    return octaves_under_the_ceiling(network, channels, ranges, 8)


def test_what_fits_stays_where_it_is() -> None:
    assert not octaves(graph_of()).any()
    assert octaves(graph_of(first=2.0**-10)).any()


def test_a_layer_of_zeros_asks_for_nothing() -> None:
    model = Chain()
    with torch.no_grad():
        model.c.weight.zero_()
    assert not octaves(lower(model, (3, 8, 8), target=None)).any()


@st.composite
def tensors(draw: st.DrawFn) -> list[_Lost]:
    """Values and weights between the components 0 .. 3, of which 0 and 3 stay."""
    place = st.integers(0, 3)
    return draw(
        st.lists(st.builds(_Lost, st.integers(MAX_FIX - 4, MAX_FIX + 5), place, st.none() | place), min_size=1, max_size=6)
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(tensors())
def test_what_is_lost_is_near_the_least_that_any_octaves_lose(tensors: list[_Lost]) -> None:
    found = _lost(tensors, _moves(tensors, [1, 2]))
    least = min(_lost(tensors, {1: a, 2: b}) for a, b in itertools.product(range(-16, 17), repeat=2))
    assert least <= found <= _lost(tensors, {})
    assert found <= 1.5 * least + 2  # one component after the other may stop a step short


def test_a_layer_that_nothing_is_left_of_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    with torch.no_grad():
        model[2].weight.mul_(2.0**-20), model[2].bias.fill_(0.5)
    graph = lower(model, (3, 8, 8), target=None)
    with caplog.at_level(logging.WARNING):
        quantize(graph, IMAGES, method="vitis")
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "all its weights" in record.getMessage()
    assert "no grid is finer than 2**-12" in record.getMessage()
