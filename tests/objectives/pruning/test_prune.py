"""Pruning removes the share of MACs asked for, keeps the network whole, and chooses by score."""

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
from edgesearch.objectives.pruning._groups import find_groups, layers_of, remove_channels
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._ratio import approach, even_keys, levels, round_to_levels
from edgesearch.objectives.pruning._resize import resize_to
from edgesearch.objectives.pruning._sensitivity import Sensitivity, measure_sensitivity
from edgesearch.objectives.pruning._shape import PrunableShape, pruned_shape
from edgesearch.objectives.pruning._sparse import prune_n_m, prune_unstructured, settle
from edgesearch.plugins import import_torchvision

from ._networks import COMPUTED

SHAPE = (3, 32, 32)


class Residual(nn.Module):
    """Additions, a concat, a depthwise layer, and a flatten into a linear layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.back = nn.Conv2d(2 * width, width, 1)
        self.side = nn.Conv2d(width, 24, 3, padding=1)
        self.mix = nn.Conv2d(width + 24, 20, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(20 * 4, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.back(torch.relu(self.depthwise(self.inner(x))))
        x = torch.relu(self.mix(torch.cat([x, self.side(x)], 1)))
        return self.head(torch.relu(self.hidden(self.pool(x).flatten(1))))


def residual(seed: int = 0) -> Residual:
    torch.manual_seed(seed)
    return Residual().eval()


def total(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> int:
    return sum(layer_macs(model, shape).values())


def fixed(value: float) -> Callable[[nn.Module], float]:
    return lambda model: value


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


def test_a_ratio_out_of_reach_ends_at_the_floor() -> None:
    model = residual()
    pruned = prune_one_step(
        model, SHAPE, ratio=0.95, granularity=16, draws=5, score=fixed(0.1), recalibrate=lambda m: None, seed=0
    )
    assert pruned.channels == {
        "stem": 16,
        "inner": 16,
        "depthwise": 16,
        "back": 16,
        "side": 16,
        "mix": 16,
        "hidden": 16,
        "head": 10,
    }
    assert pruned.reached_ratio < 0.95
    assert pruned.asked_ratio == 0.95


@pytest.mark.parametrize("granularity", [1, 4, 16])
def test_beyond_reach_every_way_ends_at_the_narrowest(granularity: int) -> None:
    model = residual()
    reach = PrunableShape(model, SHAPE).reach(granularity=granularity)
    options = {"granularity": granularity, "draws": 20, "recalibrate": lambda m: None, "score": fixed(0.1)}
    for ratio in {min(reach + 0.0101, 0.95), 0.95} if reach < 0.93 else set[float]():
        pruned = prune_one_step(model, SHAPE, ratio=ratio, seed=3, **options)  # type: ignore[arg-type]
        assert pruned.reached_ratio == pytest.approx(reach)
        assert len(pruned.scores) == 1
    narrowest = [levels(group.channels, granularity)[-1] for group in find_groups(model, SHAPE)]
    slim = remove_channels(model, find_groups(model, SHAPE), narrowest)
    assert reach == pytest.approx(1 - total(slim) / total(model))


def test_one_step_keeps_the_draw_that_scores_best() -> None:
    model = residual()
    seen: list[nn.Module] = []
    events: list[str] = []

    def score(network: nn.Module) -> float:
        events.append("score")
        seen.append(network)
        return float(network.side.out_channels)  # type: ignore[union-attr,arg-type]

    pruned = prune_one_step(
        model,
        SHAPE,
        ratio=0.45,
        granularity=1,
        draws=20,
        score=score,
        recalibrate=lambda m: events.append("recalibrate"),
        seed=1,
    )
    assert events == ["score"] + ["recalibrate", "score"] * 20  # the whole network first
    assert seen.pop(0) is model
    assert len({tuple(m.state_dict()[k].shape for k in m.state_dict()) for m in seen}) == 20  # all different
    for network in seen:
        assert 1 - total(network) / total(model) == pytest.approx(0.45, abs=0.0101)
    assert pruned.channels["side"] == max(pruned.scores) == max(n.side.out_channels for n in seen)  # type: ignore[union-attr]
    assert total(pruned.model) == pruned.macs_after
    assert pruned.macs_before == total(model)


def test_draws_follow_the_seed() -> None:
    def channels(seed: int) -> list[dict[str, int]]:
        found: list[dict[str, int]] = []

        def score(network: nn.Module) -> float:
            found.append({name: len(value) for name, value in network.state_dict().items() if name.endswith("weight")})
            return float(torch.rand(()))  # a score that draws numbers: the seed covers it

        prune_one_step(residual(), SHAPE, ratio=0.4, granularity=2, draws=6, score=score, recalibrate=lambda m: None, seed=seed)
        return found

    assert channels(3) == channels(3)
    assert channels(3) != channels(4)


def test_of_equal_scores_the_heavier_weights_win() -> None:
    model = residual()
    options = {"granularity": 1, "draws": 12, "recalibrate": lambda m: None, "seed": 2}
    pruned = prune_one_step(model, SHAPE, ratio=0.9, score=fixed(0.1), **options)  # type: ignore[arg-type]
    assert len(set(pruned.scores)) == 1
    again = prune_one_step(model, SHAPE, ratio=0.9, score=fixed(0.5), **options)  # type: ignore[arg-type]
    assert pruned.channels == again.channels


def test_iterative_spares_the_sensitive_group() -> None:
    model = residual()
    rounds: list[tuple[int, float]] = []

    def score(network: nn.Module) -> float:
        spared = network.inner.out_channels == 64  # type: ignore[union-attr]
        return total(network) / total(model) if spared else 0.1

    def finetune(network: nn.Module, step: int) -> None:
        rounds.append((step, 1 - total(network) / total(model)))

    pruned = prune_iterative(model, SHAPE, ratio=0.4, granularity=1, steps=3, score=score, finetune=finetune, seed=0)
    assert pruned.channels["inner"] == 64
    assert pruned.reached_ratio == pytest.approx(0.4, abs=0.01)
    assert [step for step, _ in rounds] == [0, 1]  # the last round is fine-tuned by the caller
    assert [ratio for _, ratio in rounds] == pytest.approx([1 - 0.6 ** (1 / 3), 1 - 0.6 ** (2 / 3)], abs=0.01)
    assert {value for _, value in pruned.sensitivity["inner"]} == {0.1}
    assert min(value for _, value in pruned.sensitivity["side"]) > 0.5
    assert [kept for kept, _ in pruned.sensitivity["inner"]] == [58, 51, 45, 38, 32, 26, 19, 13, 6]


@pytest.mark.parametrize(("fall", "chance", "repaired"), [(0.05, 0.1, False), (0.12, 0.1, True), (0.12, -0.5, False)])
def test_iterative_repairs_only_what_has_suffered(fall: float, chance: float, repaired: bool) -> None:
    """Between rounds a network whose score is still near the whole one's is left as it is."""
    model, rounds = residual(), list[int]()

    def score(network: nn.Module) -> float:
        return 1.0 if total(network) == total(model) else 1.0 - fall

    def finetune(network: nn.Module, step: int) -> None:
        rounds.append(step)

    options = {"ratio": 0.4, "granularity": 4, "steps": 3, "seed": 0}
    prune_iterative(model, SHAPE, score=score, finetune=finetune, chance=chance, **options)  # type: ignore[arg-type]
    assert rounds == ([0, 1] if repaired else [])


def test_iterative_with_a_known_sensitivity_ends_the_same_and_measures_less() -> None:
    model = residual()
    scored: list[int] = []

    def score(network: nn.Module) -> float:
        scored.append(total(network))
        return sum(float(p.detach().abs().sum()) for p in network.parameters()) / 1e4

    def ends(sensitivity: Sensitivity | None) -> dict[str, int]:
        scored.clear()
        options = {"ratio": 0.4, "granularity": 4, "steps": 2, "finetune": lambda network, step: None, "seed": 0}
        return prune_iterative(model, SHAPE, score=score, sensitivity=sensitivity, **options).channels  # type: ignore[arg-type]

    known = measure_sensitivity(model, SHAPE, granularity=4, score=score, seed=0)
    alone = ends(None)
    measured = len(scored)
    assert ends(known) == alone
    assert len(scored) == measured - sum(len(curve) for curve in known.curves.values())


def test_nothing_asked_nothing_removed() -> None:
    model = residual()
    pruned = prune_one_step(
        model, SHAPE, ratio=0.0, granularity=16, draws=4, score=fixed(1), recalibrate=lambda m: None, seed=0
    )
    assert pruned.reached_ratio == 0
    assert all(torch.equal(value, pruned.model.state_dict()[name]) for name, value in model.state_dict().items())


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
