"""What a pruned network comes to lies within the margin of what was expected of it."""

from __future__ import annotations

import pytest

from edgesearch.search.foresight._margin import at_best, chance
from edgesearch.search.study import Constraints
from edgesearch.spaces import Pruning
from edgesearch.testing import digits_table

HALF = Pruning(method="one_step", ratio=0.5)
FIGURES = {"fps": 1000.0, "latency_ms": 2.0, "size_bytes": 4000.0, "macs": 1e6}


@pytest.mark.parametrize(
    ("limit", "metric"), [("min_fps", "fps"), ("max_latency_ms", "latency_ms"), ("max_size_bytes", "size_bytes")]
)
def test_no_candidate_that_keeps_a_limit_is_ruled_out_by_what_is_expected_of_it(limit: str, metric: str) -> None:
    """Of every candidate of the recorded study, whatever the limit: the tightest that it keeps says it all."""
    table = digits_table()
    inexact = 0
    for key, candidate in table.candidates.items():
        figures, estimate = table.figures(candidate), table.estimates[key]
        if figures is None or metric not in estimate:
            continue
        tightest = Constraints.model_validate({limit: figures[metric]})
        assert not tightest.violations(at_best(estimate, candidate.pruning)), candidate
        inexact += bool(tightest.violations(estimate))
    assert inexact > 20  # these were ruled out


def test_the_margin_grows_with_the_share_that_is_pruned_and_is_none_where_no_channel_goes() -> None:
    for pruning in (Pruning(), Pruning(method="unstructured", ratio=0.5), Pruning(method="one_step")):
        assert at_best(FIGURES, pruning) == FIGURES
    less, more = (at_best(FIGURES, HALF.model_copy(update={"ratio": ratio})) for ratio in (0.25, 0.75))
    assert 1000 < less["fps"] < more["fps"] < 1300
    assert 2 > less["latency_ms"] > more["latency_ms"] > 1.5
    assert 4000 > less["size_bytes"] > more["size_bytes"] > 1000
    assert less["macs"] == FIGURES["macs"]


def test_a_limit_that_is_just_kept_is_kept_by_half_of_all_pruned_networks() -> None:
    at, none = Constraints(min_fps=1000.0), Constraints(min_accuracy=0.9)
    assert chance(FIGURES, HALF, at) == pytest.approx(0.5)
    assert chance(FIGURES, HALF, none) == chance(FIGURES, Pruning(), at) == 1.0
    beyond = Constraints(min_fps=at_best(FIGURES, HALF)["fps"])
    assert chance(FIGURES, HALF, beyond) == pytest.approx(0.05)
    assert chance(FIGURES, HALF, Constraints(min_fps=900.0, max_latency_ms=1.9)) == chance(
        FIGURES, HALF, Constraints(max_latency_ms=1.9)
    )
