"""Candidates that were rejected before training: how many, why, and which missed the constraints by least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from edgesearch.objectives import metric_of
from edgesearch.search.study import Constraints
from edgesearch.spaces import Candidate

__all__ = ["Rejections"]

#: Rejections for one reason that are told one by one.
_TOLD = 3


class Rejections:
    """Counts rejections on from what a study's attributes say. `note` is told the first few for each reason."""

    def __init__(self, constraints: Constraints, attributes: Mapping[str, Any], *, note: Callable[[str], None]) -> None:
        self._constraints, self._note = constraints, note
        self.count = int(attributes.get("rejected", 0))
        self._reasons: Counter[str] = Counter(attributes.get("rejections", {}))
        self.nearest: dict[str, Any] = attributes.get("nearest_rejected") or {}  # the one that misses by least

    def unsupported(self, candidate: Candidate, error: Exception) -> None:
        """The DPU, or this program, cannot run the candidate."""
        self.count += 1
        self._tell("unsupported", f"{candidate}: {error}")

    def violated(self, candidate: Candidate, estimate: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """The candidate, whose metrics before training are `estimate`, violates these constraints by these amounts."""
        self.count += 1
        limits = {name: float(getattr(self._constraints, name)) for name in violations}
        expected = {name: estimate[metric_of(name)] for name in violations}
        for name, limit in limits.items():
            self._tell(name, f"{candidate}: {name} = {limit:g}, and it would have {expected[name]:g}")
        self._compare(candidate, estimate, violations)

    def ruled_out(self, candidate: Candidate, figures: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """The candidate, a trial already, violates constraints now that its metrics are known; it is not counted here."""
        self._compare(candidate, figures, violations)

    def _compare(self, candidate: Candidate, figures: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """Keep the candidate if it misses the constraints by least."""
        distance = self._constraints.distance(figures)
        if not self.nearest or distance < self.nearest["distance"]:
            misses = {
                name: {"limit": float(getattr(self._constraints, name)), "expected": figures[metric_of(name)]}
                for name in violations
            }
            self.nearest = {"candidate": str(candidate), "distance": distance, "misses": misses}

    def attributes(self) -> dict[str, Any]:
        """What a study keeps, where there is something to keep."""
        kept = {"rejected": self.count, "rejections": dict(self._reasons), "nearest_rejected": self.nearest}
        return {name: value for name, value in kept.items() if value}

    def _tell(self, reason: str, message: str) -> None:
        self._reasons[reason] += 1
        if self._reasons[reason] <= _TOLD:
            self._note(f"rejected before training ({reason}): {message}")
