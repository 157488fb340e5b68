"""A program's random numbers go on as if it had not called the library in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesearch.search import Study, load_network


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


@pytest.mark.parametrize(
    "use",
    [
        lambda study, folder: Study.open(study.settings, folder),
        lambda study, folder: Study.open(study.settings, folder).optimize(1, workers=0),
        lambda study, folder: study.record(0).network(),
        lambda study, folder: load_network(study.record(0).export(folder / "deployed")),
        lambda study, folder: study.evaluate(study.records()[0].candidate),
    ],
    ids=["open", "optimize", "network", "export and load", "evaluate"],
)
def test_a_call_draws_none_of_the_callers_numbers(use: Callable[[Study, Path], object], tiny: Study, tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = drawn(), drawn()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    first = drawn()
    use(tiny, tmp_path)
    assert (first, drawn()) == expected
