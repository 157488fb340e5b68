"""Which channels share a scale, and that scaling them changes nothing in real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.graph._graph import Graph
from edgesearch.board_eval.lowering._trace import lower
from edgesearch.objectives.quantization._channels import find_channels
from edgesearch.objectives.quantization._equalization import scaled


class Net(nn.Module):
    """A residual add, a concat, a depthwise layer, pools, a flattening of several positions, relu and relu6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 12, 3, padding=1)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 6, 1)
        self.hidden, self.classes = nn.Linear(6 * 4, 10), nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.body(x) + x)
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        x = nn.functional.relu6(self.depthwise(nn.functional.max_pool2d(x, 2)))
        x = nn.functional.avg_pool2d(torch.relu(self.point(x)), 2)
        return self.classes(torch.relu(self.hidden(torch.flatten(x, 1))))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return lower(Net(), (3, 8, 8))


def test_tensors_that_are_added_share_their_channels(graph: Graph) -> None:
    of = find_channels(graph).of
    assert np.array_equal(of["stem"], of["body"])
    assert np.array_equal(of["add"], of["stem"])


def test_a_concat_has_the_channels_of_both(graph: Graph) -> None:
    of = find_channels(graph).of
    assert np.array_equal(of["cat"], np.concatenate([of["left"], of["right"]]))
    assert len(set(of["cat"].tolist())) == 16


def test_a_depthwise_layer_starts_new_channels(graph: Graph) -> None:
    of = find_channels(graph).of
    assert not set(of["depthwise"].tolist()) & set(of["cat"].tolist())


def test_flattened_positions_repeat_their_channels(graph: Graph) -> None:
    of = find_channels(graph).of
    assert np.array_equal(of["flatten"], np.tile(of["point"], 4))


def test_input_and_output_are_pinned_and_relu6_is_capped(graph: Graph) -> None:
    channels = find_channels(graph)
    named = {name: channels.pinned[ids].all() for name, ids in channels.of.items()}
    assert {name for name, pinned in named.items() if pinned} == {graph.input.name, graph.output.name}
    assert {name for name, ids in channels.of.items() if channels.capped[ids].any()} == {"depthwise"}
    assert len(channels.movable) == 4  # the added ones, the concat's, the pointwise layer's, the hidden layer's


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_scaling_free_channels_changes_no_logit(graph: Graph, seed: int) -> None:
    rng, channels = np.random.default_rng(seed), find_channels(graph)
    scales = np.where(channels.pinned | channels.capped, 1.0, np.exp2(rng.uniform(-4, 4, channels.count)))
    network = Network.of(graph)
    images = torch.from_numpy(rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32))
    with torch.no_grad():
        expected, found = network.logits(images), scaled(network, channels, torch.from_numpy(scales)).logits(images)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_network_without_channels_to_move_is_left_as_it_is() -> None:
    channels = find_channels(lower(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2)))
    assert channels.pinned.all()
    assert channels.movable == []
