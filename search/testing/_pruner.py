"""What a pruner must do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning import Pruned, Pruner, PruningTask, layer_macs, measure_sensitivity, settle, zero_share

_SHAPE = (3, 16, 16)


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for reads, makes in ((3, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(reads, makes, 3, padding=1), nn.BatchNorm2d(makes), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval()


def _score(network: nn.Module) -> float:
    return float(sum(float(p.detach().abs().sum()) for p in network.parameters()))


def _time(network: nn.Module) -> float:
    """Seconds that go by channels, so that the share of them that is gone is another one than that of the MACs."""
    return 1e-6 * sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))


class PrunerContract:
    """Subclass it and override `make`, which returns the pruner."""

    #: True for a pruner, for analysis, that sets weights to zero and removes no channels: it need not look at the ratio, and
    #: knows neither granularity nor time.
    sparse = False

    def make(self) -> Pruner:
        """The pruner under test."""
        raise NotImplementedError

    def _run(self, model: nn.Module, *, ratio: float = 0.5, granularity: int = 8, **more: Any) -> Pruned:
        task = PruningTask(
            model=model,
            input_shape=_SHAPE,
            ratio=ratio,
            granularity=granularity,
            draws=4,
            steps=2,
            score=_score,
            recalibrate=lambda network: None,
            finetune=lambda network, step: None,
            seed=0,
            **more,
        )
        return self.make()(task)

    @pytest.mark.parametrize("ratio", [0.3, 0.6])
    def test_it_removes_about_what_was_asked_for(self, ratio: float) -> None:
        """The share of multiply-accumulates that is gone is near the ratio, and is what the figures say.

        So is the share of zeros of a `sparse` one, near what it says that it was asked for.
        """
        model = _network()
        pruned = self._run(model, ratio=ratio)
        before, after = (sum(layer_macs(network, _SHAPE).values()) for network in (model, pruned.model))
        assert (pruned.macs_before, pruned.macs_after) == (before, after)
        if self.sparse:
            assert before == after
            assert pruned.zero_share == zero_share(settle(pruned.model))
        assert pruned.reached_ratio == pytest.approx(pruned.asked_ratio if self.sparse else ratio, abs=0.15)

    def test_a_share_of_the_time_is_met_or_refused(self) -> None:
        """Where the task has a `time`, the ratio is of it, and figures hold it; SpaceError where a pruner knows none."""
        if self.sparse:
            pytest.skip("zeros take the DPU as long as other weights")
        model = _network()
        try:
            pruned = self._run(model, ratio=0.5, time=_time)
        except SpaceError:
            return
        assert (pruned.seconds_before, pruned.seconds_after) == (_time(model), _time(pruned.model))
        assert pruned.reached_ratio == pytest.approx(0.5, abs=0.15)

    def test_what_is_known_of_the_network_may_be_given(self) -> None:
        """Its `sensitivity`, and the score of guessing (`chance`)."""
        model = _network()
        known = measure_sensitivity(model, _SHAPE, granularity=8, score=_score, seed=0)
        pruned = self._run(model, ratio=0.6, sensitivity=known, chance=0.2)
        assert pruned.reached_ratio == pytest.approx(pruned.asked_ratio if self.sparse else 0.6, abs=0.15)

    def test_layers_keep_multiples_of_the_granularity(self) -> None:
        """But for the network's outputs."""
        if self.sparse:
            pytest.skip("no channels go")
        pruned = self._run(_network(), granularity=16)
        kept = [m.out_channels for m in pruned.model.modules() if isinstance(m, nn.Conv2d)]
        assert all(channels % 16 == 0 and channels >= 16 for channels in kept)

    def test_the_network_given_stays_as_it_is_and_the_result_runs(self) -> None:
        """The result maps the same images to as many outputs."""
        model = _network()
        before = copy.deepcopy(model.state_dict())
        pruned = self._run(model)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert pruned.model(torch.zeros(2, *_SHAPE)).shape == (2, 5)

    def test_the_same_task_gives_the_same_network(self) -> None:
        """Whatever was drawn elsewhere in between."""
        first = self._run(_network()).model.state_dict()
        torch.rand(100)
        second = self._run(_network()).model.state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
