"""A pool that trains nothing: accuracies are curves, so that tests of many trials take no time and know what is best."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _inline import InlinePool

from edgesearch.objectives import Artifact, Stage, Store, trained_student
from edgesearch.search.processes._jobs import JobResult
from edgesearch.spaces import Candidate


def chance(*parts: object) -> float:
    """A number in 0 .. 1 that these parts decide."""
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def accuracy_after(student: dict[str, Any], epochs: int, of: int) -> float:
    """Wider networks learn more; all start low and come near their best in the end."""
    best = 0.97 - 0.25 / (1 + 4 * float(student.get("width", 1.0)))
    best -= 0.1 * chance("luck", sorted(student.items()))
    return best - (best - 0.1) * (1 - epochs / of) ** 3 * 0.6


class CurvePool(InlinePool):
    """Writes the artifacts that a study of plain trainings needs into its store. `jobs` counts kinds."""

    def __init__(self, store: Path, estimate: Callable[[Candidate], dict[str, float]], slots: int = 1) -> None:
        super().__init__(slots)
        self._estimate = estimate
        self._store, self.jobs = Store(store), Counter[str]()
        self._trained: dict[str, int] = {}
        self.kinds: list[tuple[str, str]] = []

    @property
    def spent(self) -> int:
        """Epochs that were trained."""
        return sum(self._trained.values())

    def wait(self, timeout: float) -> list[JobResult]:
        if not self._jobs:
            return []
        stage = Stage.from_json(self._jobs.popleft().stage)
        return [self._end(stage)]

    def _end(self, stage: Stage) -> JobResult:
        self.jobs[stage.kind] += 1
        self.kinds.append((stage.kind, stage.key))
        self._store.put(stage.kind, stage.key, figures=self._figures(stage), seconds=1.0, recipe=stage.recipe())
        return JobResult(stage.key, "done", 1.0)

    def _figures(self, stage: Stage) -> dict[str, Any]:
        if stage.kind in ("student", "rung"):
            key = (trained_student(stage) if stage.kind == "rung" else stage).key
            of = int(stage.parameters["recipe"]["epochs"])
            epochs = int(stage.parameters.get("epochs", of))
            self._trained[key] = max(epochs, self._trained.get(key, 0))
            return {"accuracy": accuracy_after(stage.parameters["student"], epochs, of), "loss": 1.0, "epochs": epochs}
        if stage.kind == "sensitivity":
            return {}
        network = self._network(stage)
        if stage.kind == "pruned":
            return {"accuracy": network.figures["accuracy"]}
        if stage.kind == "quantized":
            return {"accuracy": network.figures["accuracy"], "float_accuracy": network.figures["accuracy"]}
        assert stage.kind == "measured", stage.kind
        tables = {name: s.parameters[name] for s in stage.walk() for name in ("student", "pruning") if name in s.parameters}
        candidate = Candidate.model_validate(tables)
        lost = 0.05 * candidate.pruning.ratio
        return {**self._estimate(candidate), "accuracy": float(network.figures["accuracy"]) - 0.005 - lost}

    def _network(self, stage: Stage) -> Artifact:
        inner = stage.inputs["network"]
        found = self._store.get(inner.kind, inner.key)
        assert found is not None
        return found
