"""How much of what a recorded study could find a search has found: hypervolume, as a share of that of all its candidates.

Accuracy is compared by differences; frames per second, latency, size and work by their logarithm. The reference point lies
where the study's constraints meet: what breaks one counts nothing. An objective without a constraint has the worst value of the
table; one in which all candidates of the table are alike lies one beyond, so that the others decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgesearch.errors import StudyError
from edgesearch.search.study import OBJECTIVES, Objective, StudyFile, non_dominated, volume
from edgesearch.testing._table import Table

__all__ = ["Volume"]


class Volume:
    """The hypervolume of candidates of `table`, with the objectives and constraints of `study`.

    Raises StudyError where no candidate of the table keeps all constraints.
    """

    def __init__(self, table: Table, study: StudyFile) -> None:
        self._study = study
        self._objectives = [Objective(name, OBJECTIVES[name] == "maximize") for name in study.objectives]
        known = [found for found in map(table.figures, table.candidates.values()) if found is not None]
        feasible = [self.losses(figures) for figures in known if self.keeps(figures)]
        if not feasible:
            raise StudyError(f"no candidate of table {table.study.name!r} keeps {study.constraints}; loosen [constraints]")
        self.reference = tuple(map(self._corner, self._objectives, zip(*feasible, strict=True)))
        #: Hypervolume of all candidates together.
        self.best = self.of(feasible)
        if self.best <= 0:
            raise StudyError(
                f"no candidate of table {table.study.name!r} lies within {study.constraints}; loosen [constraints]"
            )

    def losses(self, figures: Mapping[str, Any]) -> tuple[float, ...]:
        """The objectives of a candidate, on the scales that they are compared on, less being better."""
        return tuple(_loss(objective, float(figures[objective.name])) for objective in self._objectives)

    def keeps(self, figures: Mapping[str, Any]) -> bool:
        """Whether a candidate keeps every constraint."""
        return not self._study.constraints.violations(figures)

    def of(self, losses: Iterable[Sequence[float]]) -> float:
        """Hypervolume of points."""
        points = np.array(list(losses), dtype=np.float64)
        return volume(points, np.array(self.reference)) if points.size else 0.0

    def front(self, losses: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
        """The points that no other dominates."""
        return [losses[row] for row in non_dominated(np.array(losses, dtype=np.float64))] if losses else []

    def _corner(self, objective: Objective, losses: Sequence[float]) -> float:
        limit = getattr(self._study.constraints, f"{'min' if objective.maximise else 'max'}_{objective.name}", None)
        if limit is not None:
            return _loss(objective, float(limit))
        worst = max(losses)
        return worst if worst > min(losses) else worst + 1.0


def _loss(objective: Objective, value: float) -> float:
    return objective.loss(math.log(value) if objective.is_ratio else value)
