"""What is said of a study whose front is empty, wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _studies import plain_record
from rich.console import Console

from edgesearch.search.commands._show import print_front
from edgesearch.search.library import Front
from edgesearch.search.report import why_no_front, write_report
from edgesearch.search.study import Record, StudyView

SLOW = plain_record(0, (0.9, 900.0), violations={"min_fps": 100.0}, words="slow one")
PLAIN = plain_record(0, (0.9, 900.0))
NEAREST = {"candidate": "cnn", "distance": 0.02, "misses": {"min_fps": {"limit": 1000.0, "expected": 980.0}}}


def ended(number: int, state: str, **more: Any) -> Record:
    return Record(number, state, PLAIN.objectives, deployable=True, words=f"candidate {number}", **more)


RULED_OUT = ended(1, "PRUNED", violations={"min_fps": 20.0}, stopped={"reason": "it breaks a limit", "made_by": "k"})
AT_RUNG = ended(2, "PRUNED", stopped={"reason": "stopped after 1 of 9 epochs", "constraints": {"min_accuracy": 0.25}})


def view(records: Sequence[Record], **more: Any) -> StudyView:
    return StudyView("s", PLAIN.objectives, {"min_fps": 1000.0, "min_accuracy": 0.8}, tuple(records), **more)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "study s has no finished trial yet"),
        ([ended(0, "RUNNING")], "study s has no finished trial yet"),
        ([ended(0, "FAIL"), ended(1, "FAIL")], "study s has no complete trial (2 failed)"),
        ([RULED_OUT, AT_RUNG], "no trial keeps every constraint (2 stopped early)"),
        ([SLOW, RULED_OUT, ended(3, "FAIL")], "no trial keeps every constraint (1 complete, 1 stopped early, 1 failed)"),
        ([SLOW, replace(PLAIN, number=1, deployable=False)], "no trial that the DPU runs keeps every constraint (2 complete)"),
        ([replace(PLAIN, deployable=False)], "no complete trial can be on the front, which takes networks that the DPU runs"),
    ],
)
def test_it_is_told_how_trials_ended(records: list[Record], said: str) -> None:
    assert why_no_front(view(records)).startswith(said)


def test_the_nearest_rejected_is_told_once() -> None:
    assert why_no_front(view([], nearest_rejected=NEAREST)) == (
        "study s has no finished trial yet; the nearest candidate that was rejected is cnn (FPS at least 1,000, expected 980)"
    )
    same = replace(RULED_OUT, words="cnn")
    assert why_no_front(view([same], nearest_rejected=NEAREST)) == "no trial keeps every constraint (1 stopped early)"


def test_trials_that_were_stopped_are_shown_with_what_they_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = view([RULED_OUT, AT_RUNG])
    print_front(Front([], study), Console(width=150))
    assert capsys.readouterr().out.splitlines() == [
        "no trial keeps every constraint (2 stopped early); the nearest trials:",
        "  trial 1  candidate 1  20.0 FPS too slow",
        "  trial 2  candidate 2  accuracy 25.00 points too low, as was expected when it was stopped",
    ]
    page = tmp_path / "report.html"
    write_report(study, page)
    text = page.read_text()
    assert "no trial keeps every constraint (2 stopped early)" in text
    assert "20.0 FPS too slow" in text
    assert "accuracy 25.00 points too low, as was expected when it was stopped" in text
