"""Expected seconds of a study's stages, learnt from those that its trials paid for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesearch.objectives import Counts, Stage, work_of
from edgesearch.search.foresight._cost import CostModel
from edgesearch.spaces import Student

__all__ = ["Expectation", "StageCosts"]

#: Stages whose place in the model is kept.
_KEPT = 8192


class Expectation(NamedTuple):
    """How the model expects a stage's seconds: its sort, and the seconds before anything is recorded."""

    sort: int
    prior: float


class StageCosts:
    """`macs` tells the multiply-accumulates of a student for one image, `counts` are the images of the study's data set."""

    def __init__(self, macs: Callable[[Student], float], counts: Counts, *, bfloat16: bool = False) -> None:
        self._macs, self._counts, self._model = macs, counts, CostModel(bfloat16=bfloat16)
        self._expectations: dict[str, Expectation] = {}  # by the stage's key

    def learn(self, stages: Iterable[Stage], seconds: Mapping[str, float]) -> None:
        """A trial with these stages paid so many seconds, by kind."""
        stages = list(stages)
        kinds = [stage.kind for stage in stages]
        if "rung" in seconds and "student" in seconds:  # the student's are those of the epochs behind its rungs
            seconds = {**seconds, "student": seconds["student"] + seconds["rung"]}
        paid = [stage for stage in stages if stage.kind in seconds and kinds.count(stage.kind) == 1]
        works = [work_of(stage, self._counts) for stage in paid]
        macs = [self._macs_of(work.student) for work in works]  # all before any is learnt from, since a look may be put off
        for stage, work, size in zip(paid, works, macs, strict=True):
            self._model.observe(work, size, seconds[stage.kind])

    def expectation(self, stage: Stage) -> Expectation:
        """What `seconds` makes seconds of."""
        if stage.key not in self._expectations:
            if len(self._expectations) >= _KEPT:
                self._expectations.clear()
            work = work_of(stage, self._counts)
            prior = self._model.prior(work, self._macs_of(work.student))
            self._expectations[stage.key] = Expectation(self._model.sort(work), prior)
        return self._expectations[stage.key]

    def seconds(self, expectations: Sequence[Expectation]) -> NDArray[np.float64]:
        """Expected seconds (stages)."""
        sorts = np.array([expectation.sort for expectation in expectations], dtype=np.intp)
        return self._model.many(sorts, np.array([expectation.prior for expectation in expectations]))

    def remaining(self, stages: Iterable[Stage]) -> float:
        """Expected seconds of the stages, one after the other."""
        expectations = [self.expectation(stage) for stage in stages]
        return float(self.seconds(expectations).sum()) if expectations else 0.0

    def _macs_of(self, student: Student | None) -> float:
        return 0.0 if student is None else self._macs(student)
