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
