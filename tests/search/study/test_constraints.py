"""Hard limits, and by how much metrics miss them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgesearch.search.study import Constraints

LIMITS = Constraints(min_fps=100.0, max_latency_ms=4.0, max_size_bytes=1000.0)
METRICS = st.fixed_dictionaries(
    {}, optional={"fps": st.floats(1.0, 1e4), "latency_ms": st.floats(0.1, 1e3), "size_bytes": st.floats(1.0, 1e6)}
)


@given(METRICS)
def test_a_limit_is_violated_where_it_is_exceeded_and_what_nobody_knows_counts_as_kept(metrics: dict[str, float]) -> None:
    excesses = LIMITS.excesses(metrics)
    assert excesses.keys() == LIMITS.model_dump(exclude_none=True).keys()  # samplers want every one
    assert {name: excess for name, excess in excesses.items() if excess > 0} == LIMITS.violations(metrics)
    assert all(excess == 0 for name, excess in excesses.items() if name.partition("_")[2] not in metrics)


def test_misses_are_summed_relative_to_their_limits() -> None:
    assert math.isclose(LIMITS.distance({"fps": 95.0, "size_bytes": 1100.0}), 0.05 + 0.1)
    assert LIMITS.distance({"fps": 100.0}) == 0.0
