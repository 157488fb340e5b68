"""Pruning removes the share of MACs asked for, and keeps the network whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._batch_norm import re_estimate_batch_norm
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._ratio import approach, even_keys, levels, round_to_levels
from edgesearch.objectives.pruning._resize import resize_to
from edgesearch.objectives.pruning._shape import PrunableShape, pruned_shape
from edgesearch.objectives.pruning._sparse import prune_n_m, prune_unstructured, settle
from edgesearch.plugins import import_torchvision

from ._networks import COMPUTED
from ._residual import SHAPE, fixed, residual, total


class Side(nn.Module):
    """Two convolutions side by side, added to what they read: their channels are one group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + torch.cat([self.left(x), self.right(x)], 1)).mean((2, 3)))


@pytest.mark.parametrize("kept", [12, 8, 4, 1])
def test_of_layers_side_by_side_none_is_left_without_channels(kept: int) -> None:
    model = Side().eval()
    nn.init.constant_(model.left.weight, 1e-6)  # by importance alone all of the left would go first
    nn.init.constant_(model.stem.weight[:8].detach(), 1e-6)
    (group,) = find_groups(model, SHAPE)
    slim = remove_channels(model, [group], [kept])
    assert (slim.left.out_channels, slim.right.out_channels) == (max(1, kept // 2),) * 2
    assert slim(torch.zeros(1, *SHAPE)).shape == (1, 10)


def test_groups_are_what_must_go_together() -> None:
    groups = {group.name: group for group in find_groups(residual(), SHAPE)}
    assert list(groups) == ["stem", "inner", "side", "mix", "hidden"]  # in order of execution; the head's outputs stay
    assert {(m.layer, m.side) for m in groups["stem"].members} == {
        ("stem", "out"),
        ("bn", "out"),
        ("inner", "in"),
        ("back", "out"),
        ("side", "in"),
        ("mix", "in"),
    }
    behind_concat = next(m for m in groups["side"].members if m.layer == "mix")
    assert behind_concat.index.tolist() == list(range(32, 56))
    flattened = next(m for m in groups["mix"].members if m.layer == "hidden")  # four pixels for each channel
    assert dict(zip(flattened.index.tolist(), flattened.root.tolist(), strict=True)) == {k: k // 4 for k in range(80)}


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_macs_of_variants_are_those_of_the_networks(data: st.DataObject) -> None:
    model = residual()
    groups = find_groups(model, SHAPE)
    assert len(groups) == 5
    kept = [data.draw(st.integers(1, group.channels)) for group in groups]
    pruned = remove_channels(model, groups, kept)
    layers = layers_of(model, SHAPE, groups)
    assert int(layers.macs(np.array(kept))) == total(pruned)
    widths = dict(zip(layers.names, layers.widths(np.array(kept)).tolist(), strict=True))
    assert widths["depthwise"] == pruned.depthwise.groups == pruned.inner.out_channels
    assert pruned(torch.zeros(2, *SHAPE)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("computed", COMPUTED)
@pytest.mark.parametrize("way", ["shape", "one_step", "iterative", "unstructured", "2:4"])
def test_layers_whose_weight_is_computed_stay_and_the_others_are_pruned(
    computed: Callable[[nn.Module], nn.Module], way: str
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = [computed(nn.Conv2d(3, 8, 3, bias=False)), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), computed(nn.Linear(8, 10))).eval()

    shape = (3, 8, 8)
    how: dict[str, Any] = {"score": fixed(0.0), "seed": 0}
    made: dict[str, Callable[[nn.Module], nn.Module]] = {
        "shape": lambda model: pruned_shape(model, shape, ratio=0.3, granularity=2),
        "one_step": lambda model: (
            prune_one_step(model, shape, ratio=0.3, granularity=2, draws=2, recalibrate=lambda _: None, **how).model
        ),
        "iterative": lambda model: (
            prune_iterative(model, shape, ratio=0.3, granularity=2, steps=2, finetune=lambda model, _: None, **how).model
        ),
        "unstructured": lambda model: settle(prune_unstructured(model, shape, ratio=0.3, **how).model),
        "2:4": lambda model: settle(prune_n_m(model, shape, pattern=(2, 4), **how).model),
    }
    model = network()
    pruned = made[way](model).eval()
    plain, others = pruned.get_submodule("2"), [pruned.get_submodule(name) for name in ("0", "7")]
    assert len(plain.weight) < 16 or bool((plain.weight == 0).any())  # type: ignore[arg-type, union-attr]
    assert [layer.extra_repr() for layer in others] == [model.get_submodule(name).extra_repr() for name in ("0", "7")]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in pruned.state_dict().items() if name[0] in "07")
    again = resize_to(network(), pruned.state_dict())
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(again(images), pruned(images))


def test_removing_channels_that_do_nothing_changes_nothing() -> None:
    model = residual()
    silent = [1, 5, 6, 20]
    with torch.no_grad():
        for tensor in (model.hidden.weight, model.hidden.bias):
            tensor[silent] = 0
        model.head.weight[:, silent] = 0
    groups = find_groups(model, SHAPE)
    kept = [g.channels - (len(silent) if g.name == "hidden" else 0) for g in groups]
    pruned = remove_channels(model, groups, kept)
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(pruned(images), model(images), atol=1e-5)
    assert torch.equal(pruned.head.bias, model.head.bias)
    assert model.hidden.out_features == 40  # the original is as it was


def test_the_smallest_norms_go_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 1024, 2))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([3.0, 1.0, 5.0, 2.0, 9.0, 4.0])[:, None, None, None]
        model[2].weight[:] = 0.5
    groups = find_groups(model, SHAPE)
    pruned = remove_channels(model, groups, [3, 4])
    assert pruned[0].weight[:, 0, 0, 0].tolist() == [5.0, 9.0, 4.0]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 1))
def test_levels_are_granules(channels: int, granularity: int, ratio: float) -> None:
    allowed = levels(channels, granularity).tolist()
    reference = [channels] + [k for k in range(channels - 1, 0, -1) if k % granularity == 0]
    assert allowed == reference
    kept = int(round_to_levels(np.array([ratio]), [channels], granularity)[0])
    wish = channels * (1 - ratio)
    assert abs(kept - wish) <= min(abs(level - wish) for level in reference) + 1e-9


@settings(deadline=None, max_examples=15)
@given(st.floats(0, 0.95), st.sampled_from([4, 8, 16]), st.integers(0, 9))
def test_approach_is_near_the_best_there_is(ratio: float, granularity: int, seed: int) -> None:
    model = residual()
    groups = find_groups(model, SHAPE)
    layers = layers_of(model, SHAPE, groups)
    whole = float(layers.macs(layers.channels))
    weights = np.random.default_rng(seed).uniform(0.5, 1.5, len(groups))
    kept = approach(layers, even_keys(layers.channels.tolist(), granularity, weights), granularity, whole * (1 - ratio))
    every = np.array(list(product(*(levels(int(n), granularity) for n in layers.channels))))
    best = np.abs(layers.macs(every) - whole * (1 - ratio)).min() / whole
    assert any((row == kept).all() for row in every)
    miss = abs(float(layers.macs(kept)) - whole * (1 - ratio)) / whole
    assert miss <= best + {4: 0.03, 8: 0.06, 16: 0.15}[granularity]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
@pytest.mark.parametrize(("ratio", "granularity"), [(0.2, 16), (0.6, 1), (0.8, 16)])
def test_real_networks_reach_their_ratio(name: str, ratio: float, granularity: int) -> None:
    shape = (3, 64, 64)
    model = getattr(import_torchvision("models"), name)(num_classes=10)
    modes = [module.training for module in model.modules()]
    pruned = pruned_shape(model, shape, ratio=ratio, granularity=granularity)
    assert 1 - total(pruned, shape) / total(model, shape) == pytest.approx(ratio, abs=0.005)
    assert pruned.eval()(torch.zeros(1, *shape)).shape == (1, 10)
    for module, before in zip(pruned.modules(), model.modules(), strict=True):
        if isinstance(module, nn.Conv2d) and isinstance(before, nn.Conv2d) and module.out_channels != before.out_channels:
            assert module.out_channels % granularity == 0
    assert [module.training for module in model.modules()] == modes


def test_one_shape_answers_for_every_ratio() -> None:
    model = residual()
    shape = PrunableShape(model, SHAPE)
    for ratio, granularity in ((0.3, 1), (0.7, 8), (0.0, 16)):
        once = pruned_shape(model, SHAPE, ratio=ratio, granularity=granularity)
        assert layer_macs(shape.at(ratio=ratio, granularity=granularity), SHAPE) == layer_macs(once, SHAPE)


def test_a_network_without_hidden_channels_stays_whole() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    assert total(pruned_shape(model, SHAPE, ratio=0.5, granularity=1)) == total(model)


def test_layers_that_cannot_lose_channels_are_left_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    assert [group.name for group in find_groups(model, SHAPE)] == ["3"]


@pytest.mark.parametrize(("ratio", "granularity"), [(-0.1, 16), (0.96, 16), (float("nan"), 16), (0.5, 0)])
def test_ratios_and_granularities_that_make_no_sense(ratio: float, granularity: int) -> None:
    with pytest.raises(SpaceError, match=r"pruning (ratio|granularity)"):
        pruned_shape(residual(), SHAPE, ratio=ratio, granularity=granularity)


def test_batch_norm_statistics_are_those_of_the_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, momentum=0.3), nn.Dropout(0.9))
    with torch.no_grad():
        model[1].running_mean += 7
    model.train()
    images = torch.randn(40, *SHAPE) * 2 + 1
    re_estimate_batch_norm(model, images, batch_size=10)
    with torch.no_grad():
        features = model[0](images)
    assert torch.allclose(model[1].running_mean, features.mean((0, 2, 3)), atol=1e-4)
    per_batch = torch.stack([part.var((0, 2, 3)) for part in features.split(10)]).mean(0)
    assert torch.allclose(model[1].running_var, per_batch, rtol=1e-4)
    assert model[1].momentum == 0.3
    assert all(module.training for module in model.modules())


def test_pruned_networks_train_on_with_everything_free() -> None:
    pruned = pruned_shape(residual().requires_grad_(True), SHAPE, ratio=0.5, granularity=8)
    pruned.train()(torch.randn(4, *SHAPE)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.parameters())
