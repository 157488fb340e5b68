"""Pruning in rounds ends where pruning in one step does, whatever the score favours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.objectives.pruning import PrunableShape, layer_macs, prune_iterative, prune_one_step
from edgesearch.objectives.pruning._budget import Clock
from edgesearch.objectives.pruning._course import Course
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._ratio import approach, even_keys, levels
from edgesearch.spaces import Student, build

SHAPE = (3, 32, 32)


def resnet8() -> nn.Module:
    torch.manual_seed(0)
    return build(Student(architecture="resnet8"), channels=3, classes=10).eval()


def favours_size(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def favours_smallness(model: nn.Module) -> float:
    return -favours_size(model)


@pytest.mark.parametrize("score", [favours_size, favours_smallness])
@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.4])
def test_rounds_end_as_near_to_the_ratio_as_one_step(score: Callable[[nn.Module], float], ratio: float) -> None:
    model = resnet8()
    asked = {"ratio": ratio, "granularity": 16, "score": score, "seed": 0, "draws": 6}
    rounds = prune_iterative(model, SHAPE, steps=3, finetune=lambda *_: None, **asked)  # type: ignore[arg-type]
    once = prune_one_step(model, SHAPE, **asked | {"draws": 1}, recalibrate=lambda _: None)  # type: ignore[arg-type]
    assert abs(rounds.reached_ratio - ratio) <= max(0.01, abs(once.reached_ratio - ratio)) + 1e-9


def test_of_a_time_that_a_round_saved_too_much_the_next_saves_less() -> None:
    """Time goes in steps: what the first of two rounds saved is not asked for again."""
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))

    def seconds(network: nn.Module) -> float:
        first, second = network[0].out_channels, network[1].out_channels  # type: ignore[index]
        return float(-(-first // 16) + -(-second // 16))

    clock = Clock(seconds, seconds)
    pruned = prune_iterative(
        model.eval(),
        SHAPE,
        ratio=0.25,
        granularity=8,
        steps=2,
        score=favours_smallness,
        finetune=lambda *_: None,
        seed=0,
        clock=clock,
    )
    assert pruned.reached_ratio == 0.25


def test_every_network_on_the_course_has_a_way_on_that_stays_there() -> None:
    model = resnet8()
    groups = find_groups(model, SHAPE)
    layers = layers_of(model, SHAPE, groups)
    whole, target = float(layers.macs(layers.channels)), 0.7 * float(layers.macs(layers.channels))
    course = Course(layers, granularity=16, target=target, tolerance=0.01)
    assert course.allows(layers, layers.channels, last=False)
    assert not course.allows(layers, layers.channels, last=True)
    allowed = 0
    for kept in map(np.array, product(*(levels(int(count), 16) for count in layers.channels))):
        if not course.allows(layers, kept, last=False):
            continue
        allowed += 1
        slim = remove_channels(model, groups, kept.tolist())
        rest = layers_of(slim, SHAPE, find_groups(slim, SHAPE))
        end = approach(rest, even_keys(rest.channels.tolist(), 16), 16, target)
        assert course.allows(rest, end, last=True)
        assert abs(float(rest.macs(end)) - target) <= 0.02 * whole
    assert 1 < allowed < 64


class Joined(nn.Module):
    """Branches side by side that are added to their input; `widths`: of the branches."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, sum(widths), 3, padding=1), nn.Linear(sum(widths), 5)
        self.branches = nn.ModuleList(nn.Conv2d(sum(widths), width, 3, padding=1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        answer: Tensor = self.head((x + torch.cat([branch(x) for branch in self.branches], 1)).relu().mean((2, 3)))
        return answer


@pytest.mark.parametrize(("widths", "granularity"), [((8, 8), 1), ((4,) * 6, 4), ((16, 48, 24), 8), ((32, 32, 32), 16)])
def test_what_layers_cost_whose_channels_are_joined_and_added_is_counted_in_whole_channels(
    widths: tuple[int, ...], granularity: int
) -> None:
    torch.manual_seed(0)
    model = Joined(widths).eval()
    (group,) = groups = find_groups(model, SHAPE)
    layers = layers_of(model, SHAPE, groups)
    for count in levels(group.channels, granularity).tolist():
        slim = remove_channels(model, groups, [count])
        assert float(layers.macs(np.array([count]))) == sum(layer_macs(slim, SHAPE).values())
        again, rest = layers.narrowed(np.array([count])), layers_of(slim, SHAPE, find_groups(slim, SHAPE))
        assert again.channels.tolist() == rest.channels.tolist()
        fewer = np.maximum(rest.channels // 2, 1)
        assert float(again.macs(fewer)) == float(rest.macs(fewer))
    narrowest = remove_channels(model, groups, [int(levels(group.channels, granularity)[-1])])
    whole = sum(layer_macs(model, SHAPE).values())
    reach = PrunableShape(model, SHAPE).reach(granularity=granularity)
    assert reach == pytest.approx(1 - sum(layer_macs(narrowest, SHAPE).values()) / whole)


@pytest.mark.parametrize(("widths", "granularity"), [((8, 8), 1), ((32, 32, 32), 16)])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_rounds_end_where_one_step_does_whose_channels_are_joined_and_added(
    widths: tuple[int, ...], granularity: int, steps: int
) -> None:
    torch.manual_seed(0)
    model = Joined(widths).eval()
    for ratio in (0.2, 0.4, 0.8, 0.95):
        at_once = prune_one_step(
            model,
            SHAPE,
            ratio=ratio,
            granularity=granularity,
            draws=1,
            score=lambda _: 0.5,
            recalibrate=lambda _: None,
            seed=0,
        )
        in_rounds = prune_iterative(
            model,
            SHAPE,
            ratio=ratio,
            granularity=granularity,
            steps=steps,
            score=lambda _: 0.5,
            finetune=lambda *_: None,
            seed=0,
        )
        assert abs(in_rounds.reached_ratio - ratio) <= abs(at_once.reached_ratio - ratio) + 0.01
