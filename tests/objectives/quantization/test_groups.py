"""Convolutions in groups in PTQ and QAT: what lies between the groups stays zero, and integers are those of the executor."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import Network, execute, to_tensor
from edgesearch.board_eval.graph import Conv, Graph, group_mask
from edgesearch.board_eval.lowering import lower, lower_with_sources
from edgesearch.objectives.data import DataSet, prepare
from edgesearch.objectives.quantization import quantize
from edgesearch.objectives.quantization._qat import start
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.quantization._sensitivity import measure

from ._qat import SHAPE, qat


class InGroups(nn.Module):
    """One in groups with a batch-norm behind it, one without, and two channels made of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.normed = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.plain = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.twice = nn.Sequential(nn.Conv2d(12, 24, 3, stride=2, padding=1, groups=12), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.twice(torch.relu(self.plain(self.normed(x)) + x)).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = InGroups().train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(32, *SHAPE))
    return network.eval()


@pytest.fixture(scope="module")
def images(data: DataSet) -> np.ndarray:
    return prepare(data.test.images, None, data.normalisation)


def assert_zero_between_groups(graph: Graph) -> None:
    found = [node for node in graph if isinstance(node, Conv) and node.groups > 1]
    assert [node.groups for node in found] == [3, 4, 12]
    for node in found:
        assert node.weight is not None
        own = group_mask(len(node.weight), node.weight.shape[3], node.groups)
        assert not node.weight.any((1, 2))[~own].any()
        assert node.weight.any((1, 2))[own].all()


@pytest.mark.parametrize("method", ["best", "vitis"])
def test_quantized_networks_have_nothing_between_their_groups(model: nn.Module, images: np.ndarray, method: str) -> None:
    exact = lower(model, SHAPE)
    assert_zero_between_groups(exact)
    graph = quantize(exact, images[:100], method=method, seed=0)
    assert_zero_between_groups(graph)
    with torch.no_grad():
        said = model(to_tensor(images)).numpy()
    assert float(((execute(graph, images) - said) ** 2).mean()) < 0.05 * float(said.var(0).mean())


def test_zeros_between_groups_cost_nothing(model: nn.Module, images: np.ndarray) -> None:
    exact = lower(model, SHAPE)
    cost = measure(Network.of(exact), to_tensor(images[:4]), 0).weight_cost["plain"].numpy()
    own = group_mask(12, 12, 4)
    assert (cost.any((2, 3)) == own).all()


@pytest.mark.parametrize("bits", [8, 5])
def test_evaluation_computes_the_integers(model: nn.Module, images: np.ndarray, bits: int) -> None:
    network = QatNetwork(copy.deepcopy(model), lower_with_sources(model, SHAPE), bits)
    start(network, images[:100], bits, 0, scale=True)
    with torch.no_grad():
        logits = network.eval()(to_tensor(images)).numpy()
    assert np.array_equal(logits, execute(network.to_graph(), images))


def test_training_leaves_what_lies_between_groups_zero(model: nn.Module, few: DataSet, images: np.ndarray) -> None:
    trained = qat(copy.deepcopy(model), few, {"epochs": 2, "weight_decay": 0.01})
    assert_zero_between_groups(trained.graph)


class InParts(nn.Module):
    """Half of the channels goes through a layer, and all of them are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.side, self.shuffle = nn.Conv2d(8, 8, 3, padding=1), nn.ChannelShuffle(2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stem(x).chunk(2, 1)
        x = self.shuffle(torch.cat([first, torch.relu(self.side(second))], 1))
        return self.head(torch.relu(x).mean((2, 3)))


def test_what_takes_channels_is_not_trained(few: DataSet, images: np.ndarray) -> None:
    torch.manual_seed(0)
    model = InParts().eval()
    exact = lower(model, SHAPE)
    network = QatNetwork(model, lower_with_sources(model, SHAPE), 8)
    trained = qat(model, few, {"epochs": 2}).graph
    picked = [node for node in exact if isinstance(node, Conv) and node.picks is not None]
    assert len(picked) == 3
    for node in picked:
        assert not [name for name, _ in network.layer(node.name).named_parameters() if name == "weight"]
        again = trained.by_name[node.name]
        assert isinstance(again, Conv)
        assert again.picks == node.picks  # a Graph refuses weights of other channels
    vitis = quantize(exact, images[:100], method="vitis", seed=0)
    for node in picked:
        assert np.array_equal(vitis.by_name[node.name].weight, node.weight)  # type: ignore[attr-defined]
        assert vitis.by_name[node.name].fix in (None, vitis.fix_of(node.inputs[0]))


def test_gradients_are_those_of_torchs_own_convolution(model: nn.Module, images: np.ndarray) -> None:
    network = QatNetwork(copy.deepcopy(model), lower_with_sources(model, SHAPE), 8)
    layer = network.layer("plain")
    x = torch.randn(2, 12, 8, 8)
    weight = layer.weight.detach().clone().requires_grad_(True)
    expected = torch.autograd.grad(nn.functional.conv2d(x, weight, layer.bias, padding=1, groups=4).square().sum(), weight)[0]
    whole, bias = layer.folded()
    got = torch.autograd.grad(nn.functional.conv2d(x, whole, bias, padding=1).square().sum(), layer.weight)[0]
    torch.testing.assert_close(got, expected)
