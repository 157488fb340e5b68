"""What a pruner must do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgesearch.objectives.pruning import Pruned, Pruner, PruningTask, layer_macs

_SHAPE = (3, 16, 16)


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for reads, makes in ((3, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(reads, makes, 3, padding=1), nn.BatchNorm2d(makes), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval()


class PrunerContract:
    """Subclass it and override `make`, which returns the pruner."""

    def make(self) -> Pruner:
        """The pruner under test."""
        raise NotImplementedError

    def _run(self, model: nn.Module, *, ratio: float = 0.5, granularity: int = 8, seed: int = 0) -> Pruned:
        task = PruningTask(
            model=model,
            input_shape=_SHAPE,
            ratio=ratio,
            granularity=granularity,
            draws=4,
            steps=2,
            score=lambda network: float(sum(float(p.detach().abs().sum()) for p in network.parameters())),
            recalibrate=lambda network: None,
            finetune=lambda network, step: None,
            seed=seed,
        )
        return self.make()(task)

    @pytest.mark.parametrize("ratio", [0.3, 0.6])
    def test_it_removes_about_what_was_asked_for(self, ratio: float) -> None:
        """The share of multiply-accumulates that is gone is near the ratio, and is what the figures say."""
        model = _network()
        pruned = self._run(model, ratio=ratio)
        before, after = (sum(layer_macs(network, _SHAPE).values()) for network in (model, pruned.model))
        assert (pruned.macs_before, pruned.macs_after) == (before, after)
        assert pruned.reached_ratio == pytest.approx(ratio, abs=0.15)

    def test_layers_keep_multiples_of_the_granularity(self) -> None:
        """But for the network's outputs."""
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
