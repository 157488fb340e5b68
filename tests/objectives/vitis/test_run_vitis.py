"""The search of a one-step pruning ends by what it finds, and not by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgesearch.objectives.vitis import _run_vitis
from edgesearch.objectives.vitis._run_vitis import Refused, prune_one_step

#: Seconds after which one that found nothing ends, and after which every one does.
PATIENCE, SEARCH = 0.1, 0.4


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], dict[str, Any]]:
    """Searches for three networks, finds so many, and goes on for so many seconds."""

    def run(found: int, seconds: float) -> dict[str, Any]:
        class Runner:
            def search(self, eval_fn: Any, eval_args: Any) -> None:
                for _ in range(2 + found):
                    eval_fn(None, *eval_args)
                time.sleep(seconds)

        monkeypatch.setattr(_run_vitis, "pruning_runner", lambda job, method: (None, Runner()))
        monkeypatch.setattr(_run_vitis, "array", lambda name: None)
        monkeypatch.setattr(_run_vitis, "accuracy", lambda *given: 0.5)
        monkeypatch.setattr(_run_vitis, "take_slim", lambda job, model, runner: {})
        return prune_one_step({"ratio": 0.5, "draws": 3, "search_seconds": SEARCH, "patience_seconds": PATIENCE})

    return run


def test_a_search_that_found_one_goes_on_until_it_has_them_all(search: Callable[[int, float], dict[str, Any]]) -> None:
    assert search(3, 2 * PATIENCE)["scores"] == [0.5, 0.5, 0.5]


def test_what_was_found_when_time_is_up_is_no_result(search: Callable[[int, float], dict[str, Any]]) -> None:
    with pytest.raises(
        Refused, match=r"found 1 of 3 networks within 1 % .* in 0.4 s, half of \[vitis\] job_timeout_s; raise that"
    ):
        search(1, 5.0)


@pytest.mark.parametrize(("images", "batch"), [(5, 2), (7, 2), (9, 4), (1, 2), (2, 2), (33, 16)])
def test_no_batch_is_of_one_image(monkeypatch: pytest.MonkeyPatch, images: int, batch: int) -> None:
    arrays = {
        "pixels_0": np.zeros((images, 4, 4, 1), np.uint8),
        "labels": np.zeros(images, np.int64),
        "order": np.arange(images)[None],
    }
    monkeypatch.setattr(_run_vitis, "array", arrays.__getitem__)
    job = {"recipe": {"batch_size": batch}, "views": 1, "taught": False, "mean": [0.0], "std": [1.0], "resize_bits": 0}
    sizes = [len(labels) for _, labels, _ in _run_vitis.TrainingData(job, torch.device("cpu")).batches(0)]
    assert sum(sizes) == images
    assert min(sizes) >= min(2, images)
    assert max(sizes) <= batch + 1


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_a_search_that_found_nothing_ends_early(search: Callable[[int, float], dict[str, Any]], seconds: float) -> None:
    with pytest.raises(Refused, match=r"found no network within 1 % .* in 0.1 s"):
        search(0, seconds)
