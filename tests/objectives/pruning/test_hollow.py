"""Networks whose large tensors are a single zero are asked about their shapes, and are never filled on the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgesearch.board_eval import lower
from edgesearch.objectives.pruning import PrunableShape, layer_macs, make_hollow
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._hollow import copied, hollow, is_hollow
from edgesearch.spaces import Student, build

SHAPE = (3, 32, 32)


def network(name: str = "resnet20") -> nn.Module:
    torch.manual_seed(0)
    return build(Student(architecture=name, input_size=32), channels=3, classes=10).eval()


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel() > 1]


def test_what_is_hollow_is_a_single_zero() -> None:
    zero = hollow((4, 3), torch.ones(2, dtype=torch.float64))
    assert zero.shape == (4, 3)
    assert zero.dtype == torch.float64
    assert zero.untyped_storage().nbytes() == 8
    assert is_hollow(zero)
    assert not is_hollow(torch.zeros(4, 3))
    assert not is_hollow(torch.ones(()).expand(4, 3))  # one value, but another one
    assert not is_hollow(torch.zeros(3).expand(4, 3))
    assert not is_hollow(torch.zeros(1))


def test_a_copy_is_as_hollow_as_the_network_and_apart_from_it() -> None:
    model = network()
    make_hollow(model, least=5_000)
    twin = copied(model)
    assert [is_hollow(t) for t in tensors(twin)] == [is_hollow(t) for t in tensors(model)]
    assert any(is_hollow(t) for t in tensors(twin))
    assert not all(is_hollow(t) for t in tensors(twin))
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    for parameter in twin.parameters():
        parameter.data = torch.ones(parameter.shape)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "squeezenet1_1"])
def test_a_hollow_network_is_pruned_to_the_shape_of_a_whole_one(name: str) -> None:
    whole = network(name)
    empty = copy.deepcopy(whole)
    make_hollow(empty)
    slim, thin = (PrunableShape(model, SHAPE).at(ratio=0.5, granularity=8) for model in (whole, empty))
    assert [p.shape for p in slim.state_dict().values()] == [p.shape for p in thin.state_dict().values()]
    assert all(is_hollow(t) for t in tensors(thin) if t.is_floating_point())
    assert layer_macs(slim, SHAPE) == layer_macs(thin, SHAPE)
    graphs = [lower(model, SHAPE) for model in (slim, thin)]
    assert [node.shape for node in graphs[0]] == [node.shape for node in graphs[1]]


def test_what_is_not_hollow_is_pruned_by_value() -> None:
    whole = network()
    partly = copy.deepcopy(whole)
    make_hollow(partly, least=20_000)
    groups = find_groups(partly, SHAPE)
    kept = [group.channels // 2 for group in groups]
    slim, thin = (remove_channels(model, groups, kept).state_dict() for model in (whole, partly))
    empty = {name for name, tensor in thin.items() if is_hollow(tensor)}
    assert empty == {name for name, tensor in partly.state_dict().items() if is_hollow(tensor)} != set()
    assert all(torch.equal(slim[name], tensor) for name, tensor in thin.items() if name not in empty)
