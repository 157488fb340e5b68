"""Pruning to a share of a time: enough is saved, nothing more than that, and where it costs least."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval import BoardProfile, SimulatedBoard, find_board, lower
from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._budget import Clock, MacBudget, TimeBudget, _slopes, dear_keys
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._layers import layers_of
from edgesearch.objectives.pruning._macs import layer_macs
from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._ratio import even_keys, levels, prefixes
from edgesearch.objectives.pruning._shape import PrunableShape
from edgesearch.objectives.stages._clock import clock_of
from edgesearch.spaces import Student, build

SHAPE = (3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 40, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(40, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


class Stopwatch:
    """A DPU that works on eight channels side by side: time goes in steps. It counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def exact(self, model: nn.Module) -> float:
        self.asked += 1
        return self.time(model)

    def time(self, model: nn.Module) -> float:
        one, two, three = (-(-width // 8) for width in widths(model))
        return 1.0 + 5 * one + 2 * one * two + two * three

    def rough(self, model: nn.Module) -> float:
        """Three times as much, less some and without steps."""
        one, two, three = (width / 8 for width in widths(model))
        return 3.0 * (5 * one + 2 * one * two + two * three)

    @property
    def clock(self) -> Clock:
        return Clock(self.exact, self.rough)


def budget(granularity: int) -> tuple[TimeBudget, Stopwatch, nn.Module]:
    model, watch = network(), Stopwatch()
    return TimeBudget(model, find_groups(model, SHAPE), granularity, watch.clock), watch, model


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 1.0), st.sampled_from([1, 4, 8]), st.integers(0, 99))
def test_the_first_network_in_order_that_is_fast_enough(share: float, granularity: int, seed: int) -> None:
    found, watch, model = budget(granularity)
    groups = find_groups(model, SHAPE)
    channels = [group.channels for group in groups]
    keys = even_keys(channels, granularity, np.random.default_rng(seed).uniform(0.3, 1.5, len(groups)))
    kept, _ = prefixes(np.array(channels), keys, granularity)
    times = [watch.time(remove_channels(model, groups, row.tolist())) for row in kept]  # slow and obvious: all of them
    target = share * found.whole
    first = next((place for place, seconds in enumerate(times) if seconds <= target), len(times) - 1)
    met = found.meet(keys, target)
    assert (met >= kept[first]).all()  # given back where it was not needed
    assert found.seconds(met) <= max(target, times[-1])
    assert watch.asked <= 4 * np.log2(len(kept) + 1) + 10


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("granularity", [1, 8])
def test_steps_that_are_not_needed_are_given_back(share: float, granularity: int) -> None:
    model, watch = network(), Stopwatch()
    groups = find_groups(model, SHAPE)
    found = TimeBudget(model, groups, granularity, Clock(watch.exact, watch.exact))
    channels = [group.channels for group in groups]
    kept = found.meet(even_keys(channels, granularity), share * found.whole)
    for place, (count, whole) in enumerate(zip(kept.tolist(), channels, strict=True)):
        if count < whole:
            wider = kept.copy()
            wider[place] = min(level for level in levels(whole, granularity).tolist() if level > count)
            assert found.seconds(wider) > share * found.whole >= found.seconds(kept)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_steps_are_taken_together_that_are_cheaper_together(steps: list[tuple[float, float]]) -> None:
    fallen = np.cumsum([fall for fall, _ in steps])
    gains = np.cumsum([round(gain, 3) for _, gain in steps])
    keys = _slopes(fallen, gains)
    assert all(one <= other * (1 + 1e-6) + 1e-9 for one, other in pairwise(keys))
    for place, key in enumerate(keys[:-1]):  # the ends of equal keys lie on the lower hull: no other point is below the line
        if keys[place + 1] != key and np.isfinite(key):
            slopes = [(fallen[place] - fallen[i]) / (gains[place] - gains[i]) for i in range(place) if gains[i] < gains[place]]
            later = [
                (fallen[i] - fallen[place]) / (gains[i] - gains[place])
                for i in range(place + 1, len(fallen))
                if gains[i] > gains[place]
            ]
            assert not later or not slopes or max(slopes) <= min(later) * (1 + 1e-6) + 1e-6


def test_macs_that_a_group_alone_saves() -> None:
    model = network()
    groups = find_groups(model, SHAPE)
    found = MacBudget(layers_of(model, SHAPE, groups), 8)
    whole = sum(layer_macs(model, SHAPE).values())
    for place, group in enumerate(groups):
        for count, saved in zip(levels(group.channels, 8)[1:], found.gains(place), strict=True):
            slim = remove_channels(model, [group], [int(count)])
            assert saved == whole - sum(layer_macs(slim, SHAPE).values())


def test_what_costs_least_for_the_time_goes_first() -> None:
    found, _, model = budget(8)
    groups = find_groups(model, SHAPE)
    fallen = [np.linspace(0.1, 0.3, len(levels(group.channels, 8)) - 1) for group in groups]
    kept = found.meet(dear_keys(fallen, found), 0.75 * found.whole)
    assert kept.tolist() == [16, 40, 16]  # the first layer's steps save most, at the same fall


def score(model: nn.Module) -> float:
    return sum(float(parameter.detach().abs().sum()) for parameter in model.parameters()) / 1e3


@pytest.mark.parametrize("method", ["one_step", "iterative"])
@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_the_ratio_is_of_the_time(method: str, ratio: float) -> None:
    model, watch = network(), Stopwatch()
    options = {"ratio": ratio, "granularity": 8, "draws": 4, "score": score, "recalibrate": lambda m: None, "seed": 0}
    if method == "one_step":
        pruned = prune_one_step(model, SHAPE, clock=watch.clock, **options)  # type: ignore[arg-type]
    else:
        rounds: list[float] = []
        pruned = prune_iterative(
            model,
            SHAPE,
            clock=watch.clock,
            steps=2,
            finetune=lambda network, step: rounds.append(watch.time(network)),
            **options,  # type: ignore[arg-type]
        )
        assert rounds[0] <= (1 - ratio) ** 0.5 * watch.time(model)
    assert pruned.seconds_before == watch.time(model)
    assert pruned.seconds_after == watch.time(pruned.model)
    assert pruned.reached_ratio == 1 - watch.time(pruned.model) / watch.time(model) >= ratio
    for width, whole in zip(widths(pruned.model), widths(model), strict=True):
        assert width in levels(whole, 8)


def test_of_all_networks_as_fast_few_lose_less() -> None:
    """Every combination of widths, against the one that the sensitivity leads to; scores are what the groups cost."""
    model, watch = network(), Stopwatch()
    costs = (0.9, 0.1, 0.4)

    def worth(slim: nn.Module) -> float:
        lost = [1 - now / before for now, before in zip(widths(slim), widths(model), strict=True)]
        return 2.0 - sum(cost * share for cost, share in zip(costs, lost, strict=True))

    target = 0.5 * watch.time(model)
    every = product(*(levels(width, 8).tolist() for width in widths(model)))
    groups = find_groups(model, SHAPE)
    networks = [remove_channels(model, groups, list(kept)) for kept in every]
    best = max(worth(slim) for slim in networks if watch.time(slim) <= target)
    pruned = prune_one_step(
        model, SHAPE, ratio=0.5, granularity=8, draws=1, score=worth, recalibrate=lambda m: None, seed=0, clock=watch.clock
    )
    assert worth(pruned.model) >= best - 0.1


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 1.0), st.sampled_from([1, 4, 8]), st.integers(0, 99))
def test_near_a_time_few_networks_are_timed(share: float, granularity: int, seed: int) -> None:
    """With two clocks that agree what is near is what is met."""
    model, watch = network(), Stopwatch()
    groups = find_groups(model, SHAPE)
    alike = TimeBudget(model, groups, granularity, Clock(watch.exact, lambda network: 3.0 * watch.time(network)))
    channels = [group.channels for group in groups]
    keys = even_keys(channels, granularity, np.random.default_rng(seed).uniform(0.3, 1.5, len(groups)))
    near = alike.near(keys, share * alike.whole)
    assert watch.asked <= 5
    assert near.tolist() == alike.meet(keys, share * alike.whole).tolist()


@pytest.mark.parametrize("architecture", ["cnn_small", "resnet20", "squeezenet1_1"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_what_is_near_is_within_a_few_percent(architecture: str, share: float) -> None:
    model = build(Student(architecture=architecture, input_size=32, stem="small"), channels=3, classes=10)
    clock = clock_of(find_board("zcu104"), (3, 32, 32))
    near = PrunableShape(model, (3, 32, 32)).at(ratio=1 - share, granularity=16, clock=clock)
    assert clock.exact(near) / clock.exact(model) == pytest.approx(share, rel=0.06)


def test_a_boards_clock_tells_the_time_of_its_code() -> None:
    board = find_board("zcu104")
    assert isinstance(board, SimulatedBoard)
    model = build(Student(architecture="resnet8", input_size=16), channels=3, classes=10).eval()
    shape = (3, 16, 16)
    clock = clock_of(board, shape)
    exact = board._timing(lower(model, shape, target=board.target)).dpu_s
    assert clock.exact(model) == exact
    assert clock.rough(model) == board.with_compiler("vai")._timing(lower(model, shape, target=board.target)).dpu_s
    slim = PrunableShape(model, shape).at(ratio=0.4, granularity=16, clock=clock)
    assert clock.exact(slim) <= 0.6 * exact


def test_a_board_that_only_measures_tells_no_time() -> None:
    class Measuring(SimulatedBoard):
        @property
        def is_pure(self) -> bool:
            return False

    found = find_board("zcu104")
    assert isinstance(found, SimulatedBoard)
    profile: BoardProfile = found.profile
    with pytest.raises(SpaceError, match="'zcu104' only measures; use target = 'macs', or a simulated board"):
        clock_of(Measuring(profile), SHAPE)
