"""Hard limits of a study, and by how much metrics miss them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from edgesearch.settings import Settings

__all__ = ["Constraints"]


class Constraints(Settings):
    """Hard limits. All but accuracy are known before anything is trained, and checked then."""

    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_fps: float | None = Field(default=None, gt=0)
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_size_bytes: float | None = Field(default=None, gt=0)

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> by how much it is violated, for those that `metrics` speaks of and violates."""
        amounts = {}
        for name, limit in self.model_dump(exclude_none=True).items():
            side, _, metric = name.partition("_")
            if metric in metrics:
                amount = limit - metrics[metric] if side == "min" else metrics[metric] - limit
                if amount > 0:
                    amounts[name] = amount
        return amounts

    def excesses(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> how far beyond its limit, at most zero when it is kept: what Optuna's samplers read.

        What `metrics` does not speak of counts as just kept, since samplers want one number of each constraint.
        """
        values = {}
        for name, limit in self.model_dump(exclude_none=True).items():
            side, _, metric = name.partition("_")
            value = metrics.get(metric, limit)
            values[name] = float(limit - value if side == "min" else value - limit)
        return values

    def distance(self, metrics: Mapping[str, float]) -> float:
        """By how much they are missed, in sum, relative to the limits: 5 % too slow is as near as 5 % too large."""
        limits: dict[str, float] = self.model_dump()
        return sum(amount / limits[name] for name, amount in self.violations(metrics).items())
