"""How a recipe is shared between the rounds of iterative pruning; networks that pruners of the user's own give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgesearch.errors import PluginError
from edgesearch.objectives.pruning import Pruned
from edgesearch.objectives.stages.kinds._pruned import _check_own, _shorter
from edgesearch.objectives.training import Recipe
from edgesearch.objectives.training._optimizers import learning_rate


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 9])
def test_every_round_warms_up_for_its_share_and_ends_at_a_low_rate(parts: int) -> None:
    recipe = Recipe(epochs=5, small_epochs=3, average_epochs=2.0, lr=1.0)
    short = _shorter(recipe, parts)
    assert short.epochs == max(1, 5 // parts)
    for name in ("warmup_epochs", "average_epochs"):
        assert getattr(short, name) / short.epochs == pytest.approx(getattr(recipe, name) / recipe.epochs)
    assert short.small_epochs < short.epochs
    assert learning_rate(short, 100 * short.epochs - 1, 100) < 0.01


def test_a_network_of_ones_own_pruner_that_cannot_be_trained_is_refused_by_its_name() -> None:
    def pruned(model: nn.Module) -> Pruned:
        return Pruned(model, {}, 10, 5, 0.5)

    whole = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    _check_own(pruned(whole), "mine:prune", (3, 4, 4), 3)
    with pytest.raises(
        PluginError, match=r"'mine:prune' gave a network whose answer to 2 images is \(2, 3\), expected \(2, 4\)"
    ):
        _check_own(pruned(whole), "mine:prune", (3, 4, 4), 4)
    with pytest.raises(PluginError, match="network of pruner 'mine:prune'"):
        _check_own(pruned(whole), "mine:prune", (3, 5, 5), 3)
    with torch.no_grad():
        whole[1].bias.fill_(float("nan"))
    with pytest.raises(PluginError, match="weights that are not finite"):
        _check_own(pruned(whole), "mine:prune", (3, 4, 4), 3)
