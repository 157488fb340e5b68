"""Layers that have one parameter in common are pruned together, and have it in common behind it; gates are looked through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.objectives.pruning import prune_one_step
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._resize import resize_to

SHAPE = (3, 12, 12)


class Tied(nn.Module):
    """Two convolutions of one weight; `bias`: their biases are one, too."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.one, self.other = (nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 5)
        self.other.weight = self.one.weight
        if bias:
            self.other.bias = self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(F.relu(self.stem(x))))
        answer: Tensor = self.head(F.relu(self.norm(self.other(x))).mean((2, 3)))
        return answer


class TiedOnce(nn.Module):
    """Convolutions of one bias that read unlike many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)
        self.other.bias = self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(F.relu(self.other(F.relu(self.one(x)))).mean((2, 3)))
        return answer


def assert_sound(model: nn.Module) -> nn.Module:
    """The network with three quarters of each group does what it did with zeros at the readers of the others."""
    model.eval().double()
    groups = find_groups(model, SHAPE)
    assert groups
    pruned = remove_channels(model, groups, [group.channels * 3 // 4 for group in groups])
    with torch.no_grad():
        for group in groups:
            for member in group.members:
                if member.side == "in":
                    lost = group.importance[member.root] < sorted(group.importance)[group.channels // 4]
                    model.get_parameter(f"{member.layer}.weight")[:, member.index[lost]] = 0
        images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
        assert torch.allclose(pruned(images), model(images), rtol=1e-7, atol=1e-9)
    return pruned


@pytest.mark.parametrize("bias", [False, True])
def test_layers_of_one_weight_lose_the_same_channels(bias: bool) -> None:
    torch.manual_seed(0)
    model = Tied(bias=bias)
    (group,) = find_groups(model, SHAPE)
    assert {member.layer for member in group.members} == {"stem", "one", "other", "norm", "head"}
    pruned = assert_sound(model)
    assert isinstance(pruned, Tied)
    assert pruned.one.weight is pruned.other.weight
    assert (pruned.one.bias is pruned.other.bias) == bias
    assert len(list(pruned.parameters())) == len(list(model.parameters()))
    again = resize_to(Tied(bias=bias).double().eval(), pruned.state_dict())
    assert again.one.weight is again.other.weight
    images = torch.randn(2, *SHAPE).double()
    assert torch.equal(again(images), pruned(images))


def test_layers_of_one_bias_lose_the_same_channels() -> None:
    torch.manual_seed(0)
    (group,) = find_groups(TiedOnce(), SHAPE)
    assert {member.layer for member in group.members} == {"one", "other", "head"}
    pruned = assert_sound(TiedOnce())
    assert isinstance(pruned, TiedOnce)
    assert pruned.one.bias is pruned.other.bias


class WithParent(TiedOnce):
    """Its weight is the whole network's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = self.other.weight


class WithTwin(TiedOnce):
    """A layer of the same weight is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Conv2d(16, 16, 3)
        self.twin.weight = self.other.weight


class WithNorm(TiedOnce):
    """A batch-norm has the convolution's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.norm.bias = self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(F.relu(self.norm(self.other(F.relu(self.one(x))))).mean((2, 3)))
        return answer


@pytest.mark.parametrize("kind", [WithParent, WithTwin, WithNorm])
def test_layers_that_share_with_something_else_keep_their_channels(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    assert find_groups(model, SHAPE) == []
    assert sum(p.numel() for p in remove_channels(model, [], []).parameters()) == sum(p.numel() for p in model.parameters())


def test_pruning_reaches_what_it_was_asked_for() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    pruned = prune_one_step(
        model, SHAPE, ratio=0.45, granularity=4, draws=2, score=lambda _: 0.5, recalibrate=lambda _: None, seed=0
    )
    assert abs(pruned.reached_ratio - 0.45) < 0.05
    assert sum(p.numel() for p in pruned.model.parameters()) < sum(p.numel() for p in model.parameters())


class Gated(nn.Module):
    """Squeeze-and-excitation whose gate is spread over the image before it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.squeeze, self.excite = nn.Conv2d(3, 32, 3), nn.Linear(32, 8), nn.Linear(8, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.trunk(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        answer: Tensor = self.head((x * gate.view(x.shape[0], -1, 1, 1).expand_as(x)).mean((2, 3)))
        return answer


def test_a_gate_that_is_spread_over_the_image_leaves_its_trunk_free() -> None:
    torch.manual_seed(0)
    assert {group.name for group in find_groups(Gated(), SHAPE)} == {"trunk", "squeeze"}
