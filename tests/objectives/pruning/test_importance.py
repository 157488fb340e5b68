"""A channel is worth what its readers would miss: its part of the variance that they put out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesearch.objectives.pruning._groups import find_groups
from edgesearch.objectives.pruning._importance import weigh
from edgesearch.objectives.pruning._one_step import prune_one_step

from ._networks import OPERATIONS, SHAPE, RandomNetwork

IMAGES = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(1))


def shows(model: nn.Module) -> float:
    """A score that shows the network the images, in batches of different sizes."""
    with torch.no_grad():
        return sum(float(model(part).sum()) for part in IMAGES.split(10))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()


def test_importance_is_the_share_of_the_readers_variance() -> None:
    model = plain()
    groups, base = weigh(model, find_groups(model, SHAPE), lambda network: float(network(IMAGES).detach().abs().sum()))
    assert base == pytest.approx(float(model(IMAGES).detach().abs().sum()))
    with torch.no_grad():
        hidden = model[:2](IMAGES)
        parts = []
        for channel in range(16):  # slow and obvious
            spread = hidden[:, channel].var(correction=0)
            parts.append(float(spread * model[2].weight[:, channel].square().sum()))
    assert groups[0].importance == pytest.approx(np.array(parts) / sum(parts), rel=1e-4)
    assert groups[1].importance.sum() == pytest.approx(1.0)
    assert not any(module._forward_hooks for module in model.modules())


def showing(batch: int, fails_at: int = -1) -> Callable[[nn.Module], float]:
    """A score that shows the images so many at a time; the batch `fails_at` fails at first, and is shown again in halves."""

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            for number, part in enumerate(IMAGES.split(batch)):
                if number == fails_at:
                    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
                    handle = last.register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
                    with pytest.raises(MemoryError):
                        model(part)
                    handle.remove()
                    halves = part.chunk(2)
                    for half in halves:
                        model(half)
                else:
                    model(part)
        return 0.0

    return score


@pytest.mark.parametrize(("batch", "fails_at"), [(1, -1), (5, -1), (5, 2), (24, 0)])
def test_importance_does_not_depend_on_how_many_images_are_shown_at_a_time(batch: int, fails_at: int) -> None:
    model = plain()
    groups = find_groups(model, SHAPE)
    whole, _ = weigh(model, groups, showing(24))
    parts, _ = weigh(model, groups, showing(batch, fails_at))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.importance, other.importance, rtol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class ByName(nn.Module):
    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(input=x)
        return x


def test_layers_may_be_given_what_they_read_by_name() -> None:
    model = plain()
    by_place, by_name = [
        [group.importance for group in weigh(m, find_groups(m, SHAPE), shows)[0]] for m in (model, ByName(model))
    ]
    assert len(by_name) == len(by_place) == 2
    for ours, theirs in zip(by_name, by_place, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_scales_that_cancel_out_change_nothing_and_constants_are_worth_nothing() -> None:
    model = plain()
    before, _ = weigh(model, find_groups(model, SHAPE), shows)
    scale = torch.logspace(-2, 2, 16)
    with torch.no_grad():
        model[0].weight *= scale[:, None, None, None]
        model[0].bias *= scale
        model[2].weight /= scale[None, :, None, None]
    after, _ = weigh(model, find_groups(model, SHAPE), shows)
    assert after[0].importance == pytest.approx(before[0].importance, rel=1e-3)
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = 100.0
    constant, _ = weigh(model, find_groups(model, SHAPE), shows)
    assert constant[0].importance[3] == 0 < np.delete(constant[0].importance, 3).min()


def test_channels_that_only_look_large_go_first() -> None:
    """Large weights whose reader hardly listens: by their norms they would stay."""
    model = plain()
    with torch.no_grad():
        model[0].weight[:8] *= 20
        model[2].weight[:, :8] *= 1e-4
    options = {"ratio": 0.5, "granularity": 8, "draws": 1, "recalibrate": lambda m: None, "seed": 0}
    pruned = prune_one_step(model, SHAPE, score=shows, **options)  # type: ignore[arg-type]
    assert pruned.channels["0"] == 8
    assert torch.equal(pruned.model[0].weight, model[0].weight[8:])  # type: ignore[index]


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        RandomNetwork,
        st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4).map(tuple),
        seed=st.integers(0, 10_000),
        flatten=st.booleans(),
    )
)
def test_every_group_of_any_network_is_weighed(model: RandomNetwork) -> None:
    model.eval()
    state = copy.deepcopy(model.state_dict())
    found = find_groups(model, SHAPE)
    weighed, _ = weigh(model, found, shows)
    for one, other in zip(found, weighed, strict=True):
        assert (one.name, one.channels, one.members) == (other.name, other.channels, other.members)
        assert other.importance.shape == (one.channels,)
        assert (other.importance >= 0).all()
        readers = sum(member.side == "in" for member in one.members)
        keeps_its_own = np.array_equal(other.importance, one.importance)  # where a reader is shown the same by every image
        assert keeps_its_own or other.importance.sum() <= readers * (1 + 1e-6)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_a_score_that_shows_nothing_leaves_the_norms() -> None:
    model = plain()
    found = find_groups(model, SHAPE)
    weighed, base = weigh(model, found, lambda network: 0.25)
    assert base == 0.25
    assert all(np.array_equal(one.importance, other.importance) for one, other in zip(found, weighed, strict=True))
