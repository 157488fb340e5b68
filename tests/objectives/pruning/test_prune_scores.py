"""One-step and iterative pruning choose by score, and end where there is nothing left to choose."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning._groups import find_groups, remove_channels
from edgesearch.objectives.pruning._iterative import prune_iterative
from edgesearch.objectives.pruning._one_step import prune_one_step
from edgesearch.objectives.pruning._ratio import levels
from edgesearch.objectives.pruning._sensitivity import Sensitivity, measure_sensitivity
from edgesearch.objectives.pruning._shape import PrunableShape

from ._residual import SHAPE, fixed, residual, total


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


@pytest.mark.parametrize("good", [0, 1, 5])
def test_a_score_that_is_no_number_is_refused(good: int) -> None:
    asked = []

    def score(network: nn.Module) -> float:
        asked.append(network)
        return 0.5 if len(asked) <= good else float("nan")

    options = {"ratio": 0.6, "granularity": 4, "score": score, "seed": 0}
    with pytest.raises(SpaceError, match="the score of a network is NaN; expected a number"):
        prune_one_step(residual(), SHAPE, draws=2, recalibrate=lambda m: None, **options)  # type: ignore[arg-type]


def test_the_sensitivity_of_another_network_is_refused() -> None:
    other = Sensitivity(0.5, {"another": ((4, 0.4),)})
    options = {"ratio": 0.6, "granularity": 4, "score": fixed(0.5), "seed": 0, "sensitivity": other}
    with pytest.raises(SpaceError, match=r"no curve of the group '.*': it is another network's; measure it"):
        prune_one_step(residual(), SHAPE, draws=2, recalibrate=lambda m: None, **options)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="it is another network's"):
        prune_iterative(residual(), SHAPE, steps=2, finetune=lambda m, step: None, **options)  # type: ignore[arg-type]
