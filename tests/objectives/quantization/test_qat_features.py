"""In quantization-aware training the maps that are compared are those of the float network, block by block."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.lowering import lower_with_sources
from edgesearch.errors import TrainingError
from edgesearch.objectives.quantization._qat_features import nodes_of, supervision_of_nodes
from edgesearch.objectives.quantization._qat_network import QatNetwork
from edgesearch.objectives.training import Features, Supervision, find_stages
from edgesearch.spaces import Student, build

SHAPE = (3, 32, 32)
TEACHER = build(Student(architecture="resnet50", width=0.125), channels=3, classes=10)


def of(architecture: str) -> tuple[nn.Module, QatNetwork]:
    torch.manual_seed(0)
    model = build(Student(architecture=architecture, width=0.5), channels=3, classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # a trained one changes its channels
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model, QatNetwork(model.eval(), lower_with_sources(model, SHAPE), 8)


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1", "vgg_small", "cnn_large", "staged 16 c2x16 c2x32/2"]
    + [f"staged 16 {block}2x16 {block}2x32/2 {block}1x32p" for block in "rbif"],
)
def test_nodes_compute_what_the_modules_of_the_float_network_do(architecture: str) -> None:
    model, network = of(architecture)
    stages = [name for name, _, _ in find_stages(model, SHAPE)]
    images = torch.randn(2, *SHAPE)
    nodes = nodes_of(stages, model, network, images)
    values = Network.of(network.graph, reference=True).run(images, keep=nodes)
    features = Features(model, stages)
    with torch.no_grad():
        model(images)
    for node, kept in zip(nodes, features.taken(), strict=True):
        torch.testing.assert_close(values[node], kept, rtol=1e-3, atol=1e-3 * float(kept.abs().max()))


def test_float_and_integer_students_compare_the_same_stages_with_the_teacher() -> None:
    model, network = of("mobilenet_v2")
    teacher, images = copy.deepcopy(TEACHER), torch.randn(4, *SHAPE)
    taught = Supervision(kind="intermediate", teacher=teacher)
    ours = supervision_of_nodes(taught, model, network, images)
    assert ours.stages is not None
    pairs = taught.pairs(model, 3, (32, 32))
    assert [theirs for _, theirs in ours.stages] == [theirs for _, theirs in pairs] == ["layer2", "layer3", "layer4"]
    features = Features(network, [name for name, _ in ours.stages]), Features(model, [name for name, _ in pairs])
    with torch.no_grad():
        model(images)
        network.eval()(images)
    shapes = [[kept.shape for kept in taps.taken()] for taps in features]
    assert shapes[0] == shapes[1]
    assert ours.pairs(network, 3, (32, 32)) == list(ours.stages)


def test_stages_that_are_named_are_modules_of_the_float_network() -> None:
    model, network = of("resnet18")
    named = Supervision(kind="intermediate", teacher=TEACHER, stages=(("layer2.0", "layer1"), ("layer3", "layer2.0.relu")))
    ours = supervision_of_nodes(named, model, network, torch.randn(4, *SHAPE)).stages
    assert ours is not None
    assert [theirs for _, theirs in ours] == ["layer1", "layer2.0.relu"]
    assert all(name in dict(network.named_modules()) for name, _ in ours)
    wrong = dataclasses.replace(named, stages=(("fc", "layer1"),))
    with pytest.raises(TrainingError, match="'fc' gives no feature maps"):
        supervision_of_nodes(wrong, model, network, torch.randn(4, *SHAPE))
    assert not any(module._forward_hooks for module in model.modules())
