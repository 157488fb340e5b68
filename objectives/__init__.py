"""Data, training, distillation, pruning, quantization; the stages a candidate goes through and the store of their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgesearch.objectives._data import DataSet, DataSettings, Split, load_data
from edgesearch.objectives._images import Normalisation, prepare
from edgesearch.objectives._pipeline import Pipeline, PruneSearch, QatRecipe, Teacher, plan, teacher_stage
from edgesearch.objectives._recipe import Recipe
from edgesearch.objectives._stage import Stage
from edgesearch.objectives._store import Artifact, Store

if TYPE_CHECKING:
    from edgesearch.objectives._estimate import Estimator
    from edgesearch.objectives._run import accuracy_of, load_graph, run_stage

__all__ = [
    "Artifact",
    "DataSet",
    "DataSettings",
    "Estimator",
    "Normalisation",
    "Pipeline",
    "PruneSearch",
    "QatRecipe",
    "Recipe",
    "Split",
    "Stage",
    "Store",
    "Teacher",
    "accuracy_of",
    "load_data",
    "load_graph",
    "plan",
    "prepare",
    "run_stage",
    "teacher_stage",
]

#: Names whose modules import torch; they are loaded when first asked for.
_LATE = {"Estimator": "_estimate", "accuracy_of": "_run", "load_graph": "_run", "run_stage": "_run"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
