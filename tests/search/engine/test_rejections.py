"""Rejected candidates are counted once each, told a few times, and the nearest of them is remembered."""

from __future__ import annotations

from typing import Any

import pytest

from edgesearch.errors import GraphError
from edgesearch.search.engine import _rejections
from edgesearch.search.engine._rejections import Rejections
from edgesearch.search.study import Constraints
from edgesearch.spaces import Candidate, Student

LIMITS = Constraints(min_fps=1000.0, max_size_bytes=2000.0)


def candidate(width: float) -> Candidate:
    return Candidate(student=Student(architecture="cnn_small", width=width))


def reject(rejections: Rejections, width: float, **estimate: float) -> None:
    rejections.violated(candidate(width), estimate, LIMITS.violations(estimate))


def test_the_nearest_misses_by_least_relative_to_the_limits() -> None:
    notes: list[str] = []
    rejections = Rejections(LIMITS, {}, note=notes.append)
    reject(rejections, 1.0, fps=900.0, size_bytes=1000.0)  # 10 % too slow
    reject(rejections, 2.0, fps=1500.0, size_bytes=2100.0)  # 5 % too large
    reject(rejections, 3.0, fps=999.0, size_bytes=2200.0)  # both
    assert rejections.count == 3
    kept = rejections.attributes()
    assert kept["rejections"] == {"min_fps": 2, "max_size_bytes": 2}
    assert kept["nearest_rejected"]["candidate"] == str(candidate(2.0))
    assert kept["nearest_rejected"]["misses"] == {"max_size_bytes": {"limit": 2000.0, "expected": 2100.0}}
    assert "min_fps = 1000, and it would have 900" in notes[0]


def test_counting_goes_on_from_what_is_stored() -> None:
    notes: list[str] = []
    before: dict[str, Any] = {}
    for width in (1.0, 2.0, 3.0, 4.0):
        rejections = Rejections(LIMITS, before, note=notes.append)
        reject(rejections, width, fps=1000.0 - width, size_bytes=1.0)
        before = rejections.attributes()
    assert before["rejected"] == 4
    assert before["nearest_rejected"]["candidate"] == str(candidate(1.0))
    again = Rejections(LIMITS, before, note=notes.append)
    for width in (4.0, 1.0, 0.5):
        reject(again, width, fps=1000.0 - width, size_bytes=1.0)
    assert (again.in_this_run, again.count) == (3, 5)  # two of them were counted before
    assert again.attributes()["rejections"] == {"min_fps": 5}
    assert len(notes) == 7


def test_a_run_tells_a_few_for_each_reason_and_a_study_keeps_so_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rejections, "_KEPT", 2)
    notes: list[str] = []
    rejections = Rejections(LIMITS, {}, note=notes.append)
    for width in (0.25, 0.5, 1.0, 2.0, 4.0):
        reject(rejections, width, fps=1.0, size_bytes=1.0)
    assert (rejections.count, len(notes)) == (5, 3)
    kept = rejections.attributes()
    assert (kept["rejected"], len(kept["rejected_keys"])) == (5, 2)


def test_what_cannot_run_is_counted_and_is_never_the_nearest() -> None:
    rejections = Rejections(LIMITS, {}, note=lambda note: None)
    assert rejections.attributes() == {}
    rejections.unsupported(candidate(1.0), GraphError("layer x does not fit"))
    assert rejections.attributes() == {
        "rejected": 1,
        "rejections": {"unsupported": 1},
        "rejected_keys": [candidate(1.0).key[:12]],
    }
