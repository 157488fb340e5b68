"""Hard limits of a study, and by how much metrics miss them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from edgesearch.objectives import excess, metric_of
from edgesearch.settings import Settings

__all__ = ["Constraints"]


class Constraints(Settings):
    """Hard limits. All but accuracy are known before anything is trained, and checked then."""

    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_fps: float | None = Field(default=None, gt=0)
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_size_bytes: float | None = Field(default=None, gt=0)

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> amount by which `metrics` miss it; those that are kept, or whose metric is absent, are left out."""
        known = {name for name in self.model_dump(exclude_none=True) if metric_of(name) in metrics}
        return {name: amount for name, amount in self.excesses(metrics).items() if name in known and amount > 0}

    def excesses(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> amount by which `metrics` miss it, at most zero where it is kept: what Optuna's samplers read.

        A constraint whose metric is absent counts as just kept, since samplers want a number for each.
        """
        limits = self.model_dump(exclude_none=True)
        return {name: excess(name, limit, metrics.get(metric_of(name), limit)) for name, limit in limits.items()}

    def distance(self, metrics: Mapping[str, float]) -> float:
        """By how much they are missed, in sum, relative to the limits: 5 % too slow is as near as 5 % too large."""
        limits: dict[str, float] = self.model_dump()
        return sum(amount / limits[name] for name, amount in self.violations(metrics).items())
