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
#: Rejected candidates that a study keeps, and digits of the key of each: more of them may be counted again when it goes on.
_KEPT, _DIGITS = 2000, 12


class Rejections:
    """Counts rejections on from what a study's attributes say, each candidate once. `note` is told the first few of a run."""

    def __init__(self, constraints: Constraints, attributes: Mapping[str, Any], *, note: Callable[[str], None]) -> None:
        self._constraints, self._note = constraints, note
        self.count = int(attributes.get("rejected", 0))
        self.in_this_run = 0
        self._reasons: Counter[str] = Counter(attributes.get("rejections", {}))
        self._told: Counter[str] = Counter()
        self._counted: dict[str, None] = dict.fromkeys(attributes.get("rejected_keys", ()))
        self.nearest: dict[str, Any] = attributes.get("nearest_rejected") or {}  # the one that misses by least

    def unsupported(self, candidate: Candidate, error: Exception) -> None:
        """The DPU, or this program, cannot run the candidate."""
        self._tell({"unsupported": f"{candidate}: {error}"}, candidate)

    def violated(self, candidate: Candidate, estimate: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """The candidate, whose metrics before training are `estimate`, violates these constraints by these amounts."""
        limits = {name: float(getattr(self._constraints, name)) for name in violations}
        expected = {name: estimate[metric_of(name)] for name in violations}
        why = {name: f"{candidate}: {name} = {limit:g}, and it would have {expected[name]:g}" for name, limit in limits.items()}
        self._tell(why, candidate)
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
        kept = {
            "rejected": self.count,
            "rejections": dict(self._reasons),
            "nearest_rejected": self.nearest,
            "rejected_keys": list(self._counted),
        }
        return {name: value for name, value in kept.items() if value}

    def _tell(self, why: Mapping[str, str], candidate: Candidate) -> None:
        """Count a candidate for these reasons, unless an earlier run did, and tell what is to be told of it."""
        self.in_this_run += 1
        key = candidate.key[:_DIGITS]
        if key not in self._counted:
            self.count += 1
            self._reasons.update(why.keys())
            if len(self._counted) < _KEPT:
                self._counted[key] = None
        for reason, message in why.items():
            self._told[reason] += 1
            if self._told[reason] <= _TOLD:
                self._note(f"rejected before training ({reason}): {message}")
