"""The stages of a study's candidates, and of what it takes to make them."""

from __future__ import annotations

from edgesearch.objectives import Conditions, Pipeline, Stage, plan, rungs_of
from edgesearch.spaces import Candidate

__all__ = ["Plans"]

#: Candidates whose stages are kept: each is asked for several times around its trial's beginning and end.
_KEPT = 256


class Plans:
    """Plans candidates for one study."""

    def __init__(self, pipeline: Pipeline, conditions: Conditions) -> None:
        self._pipeline, self._conditions = pipeline, conditions
        self._planned: dict[str, tuple[Stage, ...]] = {}  # by a candidate's settings

    def stages(self, candidate: Candidate) -> list[Stage]:
        """All that it takes to measure the candidate by simulation, inputs first."""
        settings = candidate.model_dump_json()
        if settings not in self._planned:
            if len(self._planned) >= _KEPT:
                self._planned.clear()
            self._planned[settings] = tuple(self._last(candidate, "measured").walk())
        return list(self._planned[settings])

    def parts(self, candidate: Candidate) -> list[Stage]:
        """These, and the rungs of trainings before them."""
        return [part for stage in self.stages(candidate) for part in with_rungs(stage)]

    def on_board(self, candidate: Candidate) -> Stage:
        """The measurement by a board."""
        return self._last(candidate, "on_board")

    def everything(self, candidate: Candidate) -> list[Stage]:
        """All stages and rungs of the candidate, the measurement by a board among them where there is one."""
        if not self._conditions.measures(candidate):
            return self.parts(candidate)
        return [part for stage in self.on_board(candidate).walk() for part in with_rungs(stage)] + self.parts(candidate)

    def _last(self, candidate: Candidate, last: str) -> Stage:
        return plan(candidate, self._pipeline, self._conditions, last=last)


def with_rungs(stage: Stage) -> tuple[Stage, ...]:
    """The stage, and before it the rungs of a student's training."""
    return (*(rungs_of(stage) if stage.kind == "student" else ()), stage)
