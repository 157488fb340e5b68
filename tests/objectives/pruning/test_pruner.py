"""Pruners as a study names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.errors import PluginError
from edgesearch.objectives.pruning import PRUNERS, Pruner
from edgesearch.testing import PrunerContract


class TestOneStep(PrunerContract):
    def make(self) -> Pruner:
        return PRUNERS.find("one_step")


class TestIterative(PrunerContract):
    def make(self) -> Pruner:
        return PRUNERS.find("iterative")


def test_a_pruner_of_ones_own_is_found_in_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "own_pruners.py").write_text("def mine(task):\n    return task\n")
    assert PRUNERS.find("own_pruners:mine", folder=tmp_path)(3) == 3  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(PluginError, match="changed while the study ran"):
        PRUNERS.find("own_pruners:mine", folder=tmp_path, expected_sha256="0" * 64)
    with pytest.raises(PluginError, match="unknown pruner 'magic'; expected one of iterative, n_m, one_step, unstructured"):
        PRUNERS.find("magic")
