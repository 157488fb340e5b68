"""Pruners as a study names them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgesearch.errors import PluginError, SpaceError
from edgesearch.objectives.pruning import PRUNERS, Pruned, Pruner, PruningTask
from edgesearch.testing import PrunerContract


class TestOneStep(PrunerContract):
    def make(self) -> Pruner:
        return PRUNERS.find("one_step")


class TestIterative(PrunerContract):
    def make(self) -> Pruner:
        return PRUNERS.find("iterative")


class TestUnstructured(PrunerContract):
    sparse = True

    def make(self) -> Pruner:
        return PRUNERS.find("unstructured")


class TestNM(PrunerContract):
    sparse = True

    def make(self) -> Pruner:
        return PRUNERS.find("n_m")


class Timeless(PrunerContract):
    """One that takes no notice of `time`."""

    def make(self) -> Pruner:
        return lambda task: PRUNERS.find("one_step")(dataclasses.replace(task, time=None))


class Refusing(PrunerContract):
    def make(self) -> Pruner:
        def prune(task: PruningTask) -> Pruned:
            raise SpaceError("this pruner knows no time; use pruning_target = 'macs'")

        return prune


def test_a_pruner_that_is_asked_for_a_time_meets_it_or_says_that_it_cannot() -> None:
    with pytest.raises(AssertionError):
        Timeless().test_a_share_of_the_time_is_met_or_refused()
    Refusing().test_a_share_of_the_time_is_met_or_refused()


def test_a_pruner_of_ones_own_is_found_in_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "own_pruners.py").write_text("def mine(task):\n    return task\n")
    assert PRUNERS.find("own_pruners:mine", folder=tmp_path)(3) == 3  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(PluginError, match="changed while the study ran"):
        PRUNERS.find("own_pruners:mine", folder=tmp_path, expected_sha256="0" * 64)
    with pytest.raises(PluginError, match="unknown pruner 'magic'; expected one of iterative, n_m, one_step, unstructured"):
        PRUNERS.find("magic")
