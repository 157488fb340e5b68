"""Batch-norms of a network in quantization-aware training go by what those of the float network go by."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgesearch.board_eval.execution import to_tensor
from edgesearch.board_eval.lowering import lower_with_sources
from edgesearch.objectives.quantization._qat import start
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.spaces import Student, build

SHAPE = (3, 16, 16)


def test_statistics_are_those_of_what_a_pool_passes_on_where_the_network_is_trained_so() -> None:
    torch.manual_seed(0)
    model = build(Student(architecture="staged 16 c2x16pn c1x32p max", input_size=16), channels=3, classes=10)
    images = torch.randn(64, *SHAPE)
    with torch.no_grad():
        for _ in range(50):
            model.train()(images)  # the running statistics are those of these images
        expected = copy.deepcopy(model)(images)  # in training
    network = QatNetwork(model, lower_with_sources(model, SHAPE), 8)
    start(network, images.permute(0, 2, 3, 1).numpy(), 8, 0, scale=True)
    before = [norm.running_mean.clone() for norm in norms(network)]
    shown = to_tensor(images.permute(0, 2, 3, 1).numpy())
    with torch.no_grad():
        in_training = network.train()(shown)
        later = network.eval()(shown)
    spread = float(expected.std())
    assert float((in_training - expected).std()) < 0.1 * spread  # rounded to eight bits
    assert float((later - expected).std()) < 0.1 * spread
    for mean, norm in zip(before, norms(network), strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=0.02, atol=0.02)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def moved() -> QatNetwork:
    """A network whose biases left the grids that fitted them at first, as in a training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    network = QatNetwork(model.eval(), lower_with_sources(model, SHAPE), 8)
    start(network, torch.randn(16, 16, 16, 3).numpy(), 8, 0, scale=False)
    with torch.no_grad():
        for norm in norms(network):
            norm.bias.add_(torch.linspace(-3, 2.5, 8))
    return network


def biases_fit(network: QatNetwork) -> bool:
    grids = network.positions().biases
    return all(float(bias.abs().max()) <= 128.5 * 2.0 ** -grids[name] for name, bias in network.to_network().biases.items())


def test_biases_that_batch_norm_goes_into_have_the_grid_that_fits_them_then_and_keep_it() -> None:
    network = moved()
    assert biases_fit(network)
    network.freeze()
    assert biases_fit(network)
    kept = network.positions()
    with torch.no_grad():
        for norm in norms(network):
            norm.bias.mul_(4.0)
    assert network.positions() == kept
    resumed = moved()  # as behind a checkpoint: it has the numbers, and is frozen anew
    resumed.load_state_dict(network.state_dict())
    resumed.freeze()
    assert resumed.positions() == kept


def test_what_a_network_says_is_the_same_before_and_behind_the_freezing_of_its_batch_norm() -> None:
    network, images = moved().eval(), torch.randn(8, *SHAPE)
    with torch.no_grad():
        said = network(images)
        network.freeze()
        assert torch.equal(network(images), said)


class Scaled(nn.Module):
    """Factors in front of a batch-norm, behind one, and behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, bias=False)
        self.na, self.nb, self.nc, self.nd = (nn.BatchNorm2d(8) for _ in range(4))
        self.head = nn.Linear(8, 5)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        with torch.no_grad():
            for norm in (self.na, self.nb, self.nc, self.nd):
                norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.na(self.a(x) * self.gamma))
        x = self.nd(torch.relu(self.nb(self.b(x)) * self.gamma + 0.25) * 0.5)
        return self.head(torch.relu(self.nc(self.c(x))).amax((2, 3)))


def test_constants_of_a_network_are_in_the_one_that_is_trained() -> None:
    model = Scaled().eval()
    images = torch.randn(16, *SHAPE)
    network = QatNetwork(model, lower_with_sources(model, SHAPE), 8)
    with torch.no_grad():
        torch.testing.assert_close(network.to_network().logits(images), model(images), rtol=1e-4, atol=1e-4)
    start(network, images.permute(0, 2, 3, 1).numpy(), 8, 0, scale=True)
    assert len(norms(network)) == 1  # that of the layer which no constant went into
    with torch.no_grad():
        in_training = network.train()(images)
        assert float((network.eval()(images) - model(images)).std()) < 0.1 * float(model(images).std())
    assert bool(torch.isfinite(in_training).all())
