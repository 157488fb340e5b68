"""Groups hold all that must go together: a pruned network is the unpruned one that ignores the channels that went."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._groups import Group, _least, find_groups, remove_channels, shares
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.objectives.pruning._resize import resize_to
from edgesearch.spaces import Student, build

from ._networks import OPERATIONS, SHAPE, RandomNetwork

NETWORKS = st.builds(
    RandomNetwork,
    st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, 10_000),
    flatten=st.booleans(),
)


def ignoring(model: nn.Module, groups: list[Group], kept: list[int]) -> nn.Module:
    """`model` with zero weights wherever a layer reads a channel that `remove_channels` would take away."""
    copied = copy.deepcopy(model)
    modules = dict(copied.named_modules())
    for group, count in zip(groups, kept, strict=True):
        lost = set(np.flatnonzero(_least(group, count)).tolist())
        for member in group.members:
            for index, root in zip(member.index.tolist(), member.root.tolist(), strict=True):
                if member.side == "in" and root in lost:
                    modules[member.layer].weight.data[:, index] = 0  # type: ignore[union-attr]
    return copied


def drawn(data: st.DataObject, groups: list[Group]) -> list[int]:
    return [data.draw(st.integers(1, group.channels)) for group in groups]


@settings(deadline=None, max_examples=120)
@given(NETWORKS, st.data())
def test_a_pruned_network_is_the_whole_one_that_ignores_channels(model: RandomNetwork, data: st.DataObject) -> None:
    model.eval().double()
    groups = find_groups(model, SHAPE)
    kept = drawn(data, groups)
    pruned = remove_channels(model, groups, kept)
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        assert torch.allclose(pruned(images), ignoring(model, groups, kept)(images), rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(NETWORKS)
@example(RandomNetwork(("twice", "shared", "shared", "twice"), seed=184))  # without a quarter of its channels it says one thing
def test_every_convolution_may_lose_channels(model: RandomNetwork) -> None:
    """Nothing in these networks forbids it, whatever is added, shared, put side by side or multiplied."""
    makes = {member.layer for group in find_groups(model.eval(), SHAPE) for member in group.members if member.side == "out"}
    assert makes >= {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert "head" not in makes


@settings(deadline=None, max_examples=60)
@given(NETWORKS, st.data())
def test_every_pruned_network_comes_back_from_its_tensors(model: RandomNetwork, data: st.DataObject) -> None:
    model.eval()
    groups = find_groups(model, SHAPE)
    pruned = remove_channels(model, groups, drawn(data, groups))
    again = resize_to(copy.deepcopy(model), pruned.state_dict())
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(images), pruned(images))
    assert [module.extra_repr() for module in again.modules()] == [module.extra_repr() for module in pruned.modules()]


@settings(deadline=None, max_examples=40)
@given(NETWORKS)
def test_whole_parts_cost_what_the_layers_say(model: RandomNetwork) -> None:
    groups = find_groups(model.eval(), SHAPE)
    layers = layers_of(model, SHAPE, groups)
    assert int(layers.macs(layers.channels)) == sum(layer_macs(model, SHAPE).values())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "resnet8", "cnn_small", "mlp"])
def test_groups_are_those_of_torch_pruning(name: str) -> None:
    """An independent reference, which is right for these networks."""
    torch_pruning = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = build(Student(architecture=name, input_size=64), channels=3, classes=10).eval()
    names = {module: name for name, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(model, torch.zeros(1, 3, 64, 64), verbose=False)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1, normalizer=None)
    expected = {}
    for found in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        layers = frozenset(names[item.dep.target.module] for item in found.items if item.dep.target.module in names)
        weighted = frozenset(layer for layer in layers if next(model.get_submodule(layer).parameters(), None) is not None)
        expected[weighted] = importance(found).numpy()
    outputs = list(layer_macs(model, (3, 64, 64)))[-1]
    groups = {frozenset(member.layer for member in group.members): group for group in find_groups(model, (3, 64, 64))}
    assert set(groups) == {layers for layers in expected if layers != {outputs}}
    for layers, group in groups.items():
        assert np.allclose(group.importance, expected[layers], rtol=1e-4)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.c, self.head = nn.Linear(20 * 16, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(nn.functional.adaptive_avg_pool2d(x, 4))
        x = torch.cat([x, self.b(x)], 1).flatten(1)
        return self.head(torch.sigmoid(self.c(x)))


def test_a_concat_that_is_flattened_says_which_pixels_belong_to_which_channel() -> None:
    groups = {group.name: group for group in find_groups(Flattened(), (3, 32, 32))}
    assert list(groups) == ["a", "b", "c"]
    (read,) = (member for member in groups["b"].members if member.side == "in")
    assert read.index.tolist() == list(range(8 * 16, 20 * 16))
    assert read.root.tolist() == [pixel // 16 for pixel in range(12 * 16)]


class Odd(nn.Module):
    """What is done to the channels of `a`, between layers that can lose theirs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.before, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 10)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.shuffle, self.norm = nn.ChannelShuffle(2), nn.LayerNorm([8, 4, 4])

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(torch.relu(self.before(x)))
        if self.kind == "parameter":
            x = x * self.scale
        elif self.kind == "shuffle":
            x = self.shuffle(x)
        elif self.kind == "norm":
            x = self.norm(x)
        elif self.kind == "softmax":
            x = torch.softmax(x, 1)
        elif self.kind == "slice":
            x = torch.cat([x[:, 4:], x[:, :4]], 1)
        elif self.kind == "over channels":
            x = x - x.mean(1, keepdim=True)
        elif self.kind == "image":
            x = x + torch.cat([x[:, :5], nn.functional.interpolate(x, size=(4, 4))[:, 5:]], 1)
        return self.head(self.b(x).mean((2, 3)))


@pytest.mark.parametrize("kind", ["parameter", "shuffle", "norm", "softmax", "slice", "over channels", "image"])
def test_channels_that_cannot_simply_go_stay(kind: str) -> None:
    assert [group.name for group in find_groups(Odd(kind), (3, 4, 4))] == ["before", "b"]


@pytest.mark.parametrize("name", ["clamp", "clamp_", "clip", "clip_"])
def test_channels_that_are_clipped_may_go(name: str) -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(getattr(self.a(x), name)(0, 6).mean((2, 3)))

    assert [group.name for group in find_groups(Clipped(), (3, 4, 4))] == ["a"]


class Narrow(nn.Conv2d):
    """A convolution whose arguments are set."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)


class Norm(nn.BatchNorm2d):
    """Another name for it."""


def test_layers_of_ones_own_kind_are_pruned_as_those_of_torch() -> None:
    def network(conv: type[nn.Module], norm: type[nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        more = {} if conv is Narrow else {"kernel_size": 3, "padding": 1}
        first, second = conv(3, 8, **more), conv(8, 8, **more)
        return nn.Sequential(first, norm(8), nn.ReLU(), second, norm(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    own, plain = network(Narrow, Norm).eval(), network(nn.Conv2d, nn.BatchNorm2d).eval()
    groups = [find_groups(model, (3, 4, 4)) for model in (own, plain)]
    assert [[group.name for group in found] for found in groups] == [["0", "3"]] * 2
    pruned = [remove_channels(model, found, [4, 4]) for model, found in zip((own, plain), groups, strict=True)]
    image = torch.rand(1, 3, 4, 4)
    assert pruned[0].get_submodule("0").weight.shape == (4, 3, 3, 3)
    assert torch.equal(pruned[0](image), pruned[1](image))


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.mean((2, 3))) if x.sum() > 0 else self.head(x.amax((2, 3)))

    with pytest.raises(SpaceError, match=r"Branching cannot be pruned: an `if`.* of values that depend on the image"):
        find_groups(Branching(), (3, 8, 8))


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (lambda y: y[:, :, 0, 0], ["first", "second"]),
        (lambda y: y[..., 0, 0], ["first", "second"]),
        (lambda y: y[:][..., 0][..., 0], ["first", "second"]),
        (lambda y: y[:, [*range(8)], 0, 0], ["first"]),
        (lambda y: y[..., :8, 0, 0], ["first"]),
    ],
)
def test_a_part_with_all_channels_leaves_them_free(part: Callable[[Tensor], Tensor], names: list[str]) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(part(self.second(self.first(x)).mean((2, 3), keepdim=True)))

    model = Parts().eval()
    groups = find_groups(model, (3, 8, 8))
    assert [group.name for group in groups] == names
    remove_channels(model, groups, [4] * len(groups))(torch.rand(1, 3, 8, 8))


class Counting(nn.Module):
    """Two convolutions, between which the network insists on its number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._assert(x.shape[1] == 16, "expected 16 channels")
        return self.head(self.second(x).mean((2, 3)))


def test_a_group_without_which_the_network_raises_whatever_it_is_stays() -> None:
    bare = nn.BatchNorm2d(16, affine=False, track_running_stats=False)
    layers = nn.Conv2d(3, 16, 3), bare, nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    for model, name in ((Counting(), "second"), (nn.Sequential(*layers), "2")):
        assert [group.name for group in find_groups(model.eval(), SHAPE)] == [name]


@pytest.mark.parametrize("sizes", [[4, 4, 4, 52], [1, 1, 1, 61], [8, 8], [3], [2, 2, 2, 2, 2]])
def test_parts_of_a_group_keep_as_many_as_was_decided(sizes: list[int]) -> None:
    for count in range(1, sum(sizes) + 1):
        kept = shares(sizes, count)
        assert sum(kept) == max(count, len(sizes))  # none of its parts may go whole
        assert all(1 <= share <= size for share, size in zip(kept, sizes, strict=True))


class Pair(nn.Module):
    """Answers with two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.layer(x)


def test_a_network_that_answers_with_two_tensors_is_not_pruned() -> None:
    with pytest.raises(SpaceError, match="Pair cannot be pruned, since it answers with a tuple and not with a tensor"):
        find_groups(Pair().eval(), SHAPE)


def test_rounds_leave_a_network_whole_that_computes_nothing() -> None:
    pools = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    options: dict[str, Any] = {"score": lambda _: 0.5, "finetune": lambda *_: None, "seed": 0}
    assert prune_iterative(pools, SHAPE, ratio=0.5, granularity=1, steps=2, **options).reached_ratio == 0.0


class Scaled(nn.Module):
    """A parameter beside the channels of one layer, numbers beside those of another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 4)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(2 * x - 1) * self.gamma)
        return self.head((torch.relu(self.second(x) / 3 + 0.1) * 0.5).mean((2, 3)))


def test_numbers_go_with_any_channels_and_a_parameter_for_each_channel_keeps_its_own() -> None:
    model = Scaled().eval()
    groups = find_groups(model, (3, 9, 9))
    assert [group.name for group in groups] == ["second"]
    pruned = remove_channels(model, groups, [4])
    image = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(pruned(image), ignoring(model, groups, [4])(image))
