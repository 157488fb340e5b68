"""Networks that are scored one after another, beside `evaluate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgesearch.errors import OutOfMemory
from edgesearch.objectives.data import Normalisation, Split
from edgesearch.objectives.training import Scorer, evaluate
from edgesearch.objectives.training import _cached_batch as cached
from edgesearch.objectives.training import _evaluation as evaluation
from edgesearch.objectives.training._evaluation import predict_logits


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("size", "side"), [(None, 12), (16, 12), ((8, 20), 90)])
def test_the_share_is_that_of_an_evaluation(
    kept: bool, size: int | tuple[int, int] | None, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(evaluation, "_KEPT_BYTES", 0)
    monkeypatch.setattr(cached, "_LARGEST_BYTES", 40_000)
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


NORMALISATION = Normalisation(mean=(0.4,), std=(0.3,))


class Limited(nn.Module):
    """A network that memory suffices for with so many images at a time; it keeps how many it was shown."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seen = most, list[int]()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found: torch.Tensor = self.layers(x)
        return found


def split_of(count: int) -> Split:
    dice = np.random.default_rng(0)
    return Split(dice.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8), dice.integers(0, 4, count))


def test_a_batch_that_does_not_fit_is_halved_and_the_answers_are_the_same() -> None:
    split, notes = split_of(61), list[str]()
    ample, narrow = Limited(100), Limited(9)
    whole = predict_logits(ample, split.images, input_size=None, normalisation=NORMALISATION)
    found = predict_logits(narrow, split.images, input_size=None, normalisation=NORMALISATION, note=notes.append)
    assert narrow.seen == [61, 31, 16, 8, 8, 8, 8, 8, 8, 8, 5]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
    assert notes[0] == "out of memory while predicting 61 images at a time; going on with 31"
    assert len(notes) == 3
    shares = {evaluate(Limited(most), split, input_size=None, normalisation=NORMALISATION) for most in (1, 2, 9, 61)}
    assert shares == {float((whole.argmax(1) == split.labels).mean())}


@pytest.mark.parametrize("kept", [True, False])
def test_scores_too_go_on_with_half_a_batch(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(evaluation, "_KEPT_BYTES", 0)
    split, notes = split_of(61), list[str]()
    score = Scorer(split, input_size=None, normalisation=NORMALISATION, device="cpu", note=notes.append)
    narrow = Limited(20)
    assert score(narrow) == evaluate(Limited(100), split, input_size=None, normalisation=NORMALISATION)
    first = len(narrow.seen)
    assert score(narrow) == evaluate(Limited(100), split, input_size=None, normalisation=NORMALISATION)
    assert max(narrow.seen[first:]) <= 20  # what did not fit is not tried again
    assert len(notes) == 2


def test_where_one_image_does_not_fit_there_is_nothing_left_to_halve() -> None:
    with pytest.raises(OutOfMemory, match=r"predicting a single image; use a smaller input or network"):
        evaluate(Limited(0), split_of(5), input_size=None, normalisation=NORMALISATION)


def test_other_failures_are_told_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(3, 4)), split_of(5), input_size=None, normalisation=NORMALISATION)
