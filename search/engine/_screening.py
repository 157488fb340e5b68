"""What is known of candidates before they are trained, and whether the hard constraints let them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edgesearch.objectives import Stage
from edgesearch.search.engine._hard_limits import HardLimits
from edgesearch.search.foresight import Foresight, Scoring
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate

__all__ = ["Screened", "Screening"]


class Screened(NamedTuple):
    """A candidate's metrics before training, those to hold it to, and by how much it violates which constraints.

    `known` are those of its very network, where that is known to break a limit, and the estimate otherwise.
    """

    estimate: dict[str, Any]
    known: Mapping[str, float]
    violations: dict[str, float]


class Screening:
    """Screens the candidates of one study. `plan` gives a candidate's stages."""

    def __init__(
        self,
        settings: StudyFile,
        estimator: Foresight,
        scoring: Scoring,
        limits: HardLimits,
        plan: Callable[[Candidate], Sequence[Stage]],
    ) -> None:
        self._settings, self.estimator, self._scoring, self._limits = settings, estimator, scoring, limits
        self.stages = plan

    @property
    def revision(self) -> int:
        """Grows with what may change an answer: measurements of boards, and networks that broke a limit."""
        return self._scoring.correction.measurements + self._limits.count

    def of(self, candidate: Candidate) -> Screened:
        """Raises EdgesearchError for what the DPU or this program cannot run, Pending while that is found out."""
        estimate = self._scoring.corrected(self.estimator.estimate(candidate), candidate)
        broken = self._limits.broken_by(self.stages(candidate))
        best = self._scoring.at_best(estimate, candidate) if broken is None else self._scoring.favourable(broken)
        return Screened(estimate, broken or estimate, self._settings.constraints.violations(best))
