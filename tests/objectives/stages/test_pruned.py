"""How a recipe is shared between the rounds of iterative pruning."""

from __future__ import annotations

import pytest

from edgesearch.objectives.stages.kinds._pruned import _shorter
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
