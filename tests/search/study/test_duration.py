from __future__ import annotations

from edgesearch.search.study._duration import duration


def test_durations_have_a_unit_that_suits_them() -> None:
    assert [duration(s) for s in (0.0412, 5.0, 600.0, 86_400.0)] == ["41 ms", "5.0 s", "10.0 min", "24.0 h"]
