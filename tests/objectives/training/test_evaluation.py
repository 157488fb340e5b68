"""Networks that are scored one after another, beside `evaluate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.objectives.data import Normalisation, Split
from edgesearch.objectives.training import Scorer, evaluate
from edgesearch.objectives.training import _evaluation as evaluation


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("size", "side"), [(None, 12), (16, 12), ((8, 20), 90)])
def test_the_share_is_that_of_an_evaluation(
    kept: bool, size: int | tuple[int, int] | None, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(evaluation, "_KEPT_BYTES", 0)
    monkeypatch.setattr(evaluation, "_CACHED_PIXELS", 3000)
    dice = np.random.default_rng(0)
    split = Split(dice.integers(0, 256, (61, side, side, 3), dtype=np.uint8), dice.integers(0, 4, 61))
    normalisation = Normalisation(mean=(0.4,), std=(0.3,))
    score = Scorer(split, input_size=size, normalisation=normalisation, device="cpu")
    found = set()
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(4))
        model(torch.zeros(2, 3, *((size, size) if isinstance(size, int) else size or (side, side))))
        found.add(score(model.train()))
        assert score(model) == evaluate(model, split, input_size=size, normalisation=normalisation)
        assert model.training
    assert len(found) > 1
