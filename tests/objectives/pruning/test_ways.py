"""Of many ways the best by score is taken; where scores are noise, the way that measured sensitivity points to."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._sensitivity import Sensitivity, measure_sensitivity

SHAPE = (3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def kept(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def alone(model: nn.Module) -> float:
    """A network that survives the loss of the first or the last layer's channels, not of the middle one's, nor of much."""
    first, middle, last = kept(model)
    if middle < 32:
        return 0.1
    return 0.9 if first + last >= 36 else 0.1


def prune(ratio: float, **options: object) -> list[int]:
    arguments = {"ratio": ratio, "granularity": 4, "draws": 8, "recalibrate": lambda m: None, "seed": 0, "chance": 0.1}
    return kept(prune_one_step(network(), SHAPE, **(arguments | options)).model)  # type: ignore[arg-type]


def noise(model: nn.Module) -> float:
    """Chance, but for the unpruned network and those that lost one group's channels only; even pruning seems the best."""
    narrow = [width for width in kept(model) if width < 32]
    return alone(model) if len(narrow) <= 1 else 0.1 + 0.02 * (len(set(kept(model))) == 1)


def test_where_scores_are_noise_sensitivity_decides() -> None:
    assert prune(0.75, score=noise)[1] == 32  # the layer that cannot lose any
    known = measure_sensitivity(network(), SHAPE, granularity=4, score=noise, seed=0)
    assert prune(0.75, score=noise, sensitivity=known) == prune(0.75, score=noise)
    flat = Sensitivity(0.9, {name: tuple((count, 0.9) for count, _ in curve) for name, curve in known.curves.items()})
    assert prune(0.75, score=noise, sensitivity=flat) != prune(0.75, score=noise)


def test_a_score_beyond_noise_decides_whatever_the_sensitivity_says() -> None:
    found: list[float] = []

    def score(model: nn.Module) -> float:
        worth = kept(model)[0] / 32
        found.append(worth)
        return worth

    known = measure_sensitivity(network(), SHAPE, granularity=4, score=alone, seed=0)
    found.clear()
    assert prune(0.8, score=score, sensitivity=known)[0] / 32 == max(found[1:])  # the first is the whole network's


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_the_drawn_ways_stay_among_those_that_are_scored(ratio: float) -> None:
    """What is kept scores no worse than the best of the draws that were scored before there was sensitivity."""
    seen: list[list[int]] = []

    def score(model: nn.Module) -> float:
        seen.append(kept(model))
        return float(torch.rand(()))

    known = measure_sensitivity(network(), SHAPE, granularity=4, score=alone, seed=0)
    pruned = prune_one_step(
        network(),
        SHAPE,
        ratio=ratio,
        granularity=4,
        draws=8,
        score=score,
        recalibrate=lambda m: None,
        seed=0,
        sensitivity=known,
    )
    assert seen.pop(0) == kept(network())
    assert 8 <= len(pruned.scores) <= 9
    assert len({tuple(widths) for widths in seen}) == len(seen)
    assert max(pruned.scores) == pruned.scores[seen.index(kept(pruned.model))]


def test_little_pruning_measures_no_sensitivity() -> None:
    seen: list[list[int]] = []

    def score(model: nn.Module) -> float:
        seen.append(kept(model))
        return 0.5

    prune(0.3, score=score)
    assert seen.pop(0) == kept(network())  # which channels say what is looked at once
    assert 1 < len(seen) <= 8
    assert kept(network()) not in seen


@pytest.mark.parametrize("worth", [1.0, 0.01])
def test_networks_that_can_no_longer_win_are_let_go(worth: float) -> None:
    """Two may still win: the best by score, and where all turn out to be noise the one that sensitivity points to."""
    known = measure_sensitivity(network(), SHAPE, granularity=4, score=alone, seed=0)
    seen: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def score(model: nn.Module) -> float:
        gc.collect()
        seen.append(weakref.ref(model))
        alive.append(sum(other() is not None for other in seen))
        return worth * float(torch.rand(()))

    prune(0.6, score=score, sensitivity=known, draws=12)
    assert len(alive) >= 10
    assert max(alive) <= 5  # the whole one, two that may win, the one that is scored and the one before it
