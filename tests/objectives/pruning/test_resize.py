"""A saved network comes back as its architecture, as wide as its tensors, with the same outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._groups import find_groups
from edgesearch.objectives.pruning._resize import resize_to
from edgesearch.objectives.pruning._shape import pruned_shape
from edgesearch.plugins import import_torchvision

from ._networks import COMPUTED

SHAPE = (3, 64, 64)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_0", "mobilenet_v3_small"])  # the last has gates
def test_pruned_networks_survive_the_round_trip(name: str) -> None:
    build = getattr(import_torchvision("models"), name)
    torch.manual_seed(0)
    pruned = pruned_shape(build(num_classes=10), SHAPE, ratio=0.5, granularity=8).eval()
    saved = {key: value.clone() for key, value in pruned.state_dict().items()}
    again = resize_to(build(num_classes=10), saved).eval()
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again(images), pruned(images))
    for before, after in zip(pruned.modules(), again.modules(), strict=True):
        assert before.extra_repr() == after.extra_repr()  # widths and groups of every layer
    again.train()(torch.randn(2, *SHAPE)).sum().backward()
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_tensors_are_copied_not_shared() -> None:
    model, saved = nn.Linear(3, 2), {"weight": torch.ones(5, 4), "bias": torch.zeros(5)}
    resize_to(model, saved)
    with torch.no_grad():
        model.weight += 1
    assert saved["weight"].max() == 1
    assert (model.in_features, model.out_features) == (4, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", COMPUTED)
def test_a_layer_whose_weight_is_computed_comes_back_and_stays_whole(
    norm: Callable[[nn.Module], nn.Module], bias: bool
) -> None:
    def make() -> nn.Module:
        body = norm(nn.Conv2d(3, 16, 3, bias=bias)), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm(nn.Linear(16, 10)))

    torch.manual_seed(0)
    trained = make().eval()
    again = resize_to(make(), {key: value.clone() for key, value in trained.state_dict().items()}).eval()
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again(images), trained(images))
    groups = find_groups(trained, SHAPE)
    assert [member.layer for group in groups for member in group.members if member.side == "out"] == ["2"]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2), nn.PReLU(8)
    )


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("0.weight", torch.zeros(8, 3, 5, 5), "0.weight has shape"),
        ("0.weight", torch.zeros(0, 3, 3, 3), "0.weight has shape"),
        ("0.weight", torch.zeros(8, 3), "0.weight has shape"),
        ("0.bias", torch.zeros(7), "0.bias has shape"),
        ("1.running_var", torch.zeros(9), "1.running_var has shape"),
        ("2.weight", torch.zeros(8, 2, 3, 3), "2.weight has shape"),
        ("3.weight", torch.zeros(7, 4, 1, 1), "3.weight has shape"),
        ("4.weight", torch.zeros(3), "4.weight has shape"),
        ("4.weight", None, "lack '4.weight'"),
        ("extra", torch.zeros(1), "have 'extra'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(key: str, value: Tensor | None, complaint: str) -> None:
    saved = dict(network().state_dict())
    if value is None:
        del saved[key]
    else:
        saved[key] = value
    with pytest.raises(SpaceError, match=complaint):
        resize_to(network(), saved)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_layers_that_share_a_weight_go_on_to_where_the_saved_ones_are_equal() -> None:
    saved = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
    again = resize_to(Tied(), saved)
    assert again.first.weight is again.second.weight
    assert torch.equal(again.second.weight, saved["second.weight"])
    saved["second.weight"] += 1
    apart = resize_to(Tied(), saved)
    assert torch.equal(apart.first.weight, saved["first.weight"])
    assert torch.equal(apart.second.weight, saved["second.weight"])
