"""How far a pruned network may lie from what is expected of it while nobody knows which of its channels go.

What is expected is of even pruning. Which channels a pruner removes is known once the student is trained, and the network is
held to the limits then, exactly; until then only what lies beyond the margin rules a candidate out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from edgesearch.objectives import metric_of
from edgesearch.search.rungs import scale_prior
from edgesearch.search.study import Constraints
from edgesearch.spaces import Pruning

__all__ = ["at_best", "chance"]

#: The share of pruned networks that come to less than their margin grants.
_SHARE = 0.95
_WIDTH = NormalDist().inv_cdf(_SHARE)
#: Metrics that limits are set to before training, and whether more is better.
_METRICS = {"fps": True, "latency_ms": False, "size_bytes": False}


def at_best(figures: Mapping[str, Any], pruning: Pruning) -> dict[str, Any]:
    """Figures that are expected before training, at the end of their margin that keeps constraints best."""
    best = dict(figures)
    if pruning.removes:
        for name in _METRICS.keys() & figures.keys():
            margin = math.exp(_WIDTH * _doubt(name, pruning.ratio))
            best[name] = figures[name] * margin if _METRICS[name] else figures[name] / margin
    return best


def chance(figures: Mapping[str, float], pruning: Pruning, constraints: Constraints) -> float:
    """How likely a network with these figures, expected before training, keeps its limits once its channels are known."""
    if not pruning.removes:
        return 1.0
    chances = [1.0]
    for constraint, limit in constraints.model_dump(exclude_none=True).items():
        name = metric_of(constraint)
        if name in _METRICS and figures.get(name, 0.0) > 0:
            ahead = math.log(figures[name] / limit) * (1 if _METRICS[name] else -1)
            chances.append(NormalDist().cdf(ahead / _doubt(name, pruning.ratio)))
    return min(chances)  # what makes a network fast makes it small, too


def _doubt(name: str, ratio: float) -> float:
    """Standard deviation of the logarithm of a metric over what is expected of it, where this share is pruned."""
    prior = scale_prior(name)
    return math.hypot(prior.offset[1], prior.slope[1] * ratio, prior.scatter)
