"""Looks at boards: the power-cycle command, and boards that come back or do not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from _fake_boards import deeds, write_boards

from edgesearch.board_eval import BoardReference
from edgesearch.search.engine._allocation import BoardRules
from edgesearch.search.engine._crew import BoardCrew
from edgesearch.search.engine._look import cycle_power, look_at

RULES = BoardRules(boot_s=60.0, hook_s=5.0)


def test_arguments_reach_the_command_as_they_are(tmp_path: Path) -> None:
    odd = "$(touch /tmp/x); `y` 'z' \"w\""
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    assert cycle_power((sys.executable, "-c", program, str(tmp_path / "said"), odd), seconds=30.0) is None
    assert (tmp_path / "said").read_text() == odd


def test_a_command_that_fails_hangs_or_is_not_there_is_told_in_words() -> None:
    failing = cycle_power((sys.executable, "-c", "import sys; sys.exit('no outlet 3')"), seconds=30.0)
    assert failing is not None
    assert "ended with code 1 (no outlet 3)" in failing
    hanging = cycle_power((sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.2)
    assert hanging is not None
    assert "did not end in 0.2 s" in hanging
    absent = cycle_power(("/nowhere/switch",), seconds=1.0)
    assert absent is not None
    assert "cannot be run" in absent


def test_a_board_that_boots_is_asked_until_it_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesearch.search.engine._look._PAUSE_S", 0.01)
    write_boards(tmp_path, a={"canary": ["lost", "ok"]})
    board = BoardReference("lab:a", power_cycle=(sys.executable, "-c", ""))
    assert look_at(tmp_path, RULES)(board, "power cycle") is None
    assert deeds(tmp_path, "a") == ["canary lost", "canary ok"]


def test_a_board_that_does_not_come_back_says_why(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"canary": ["lost"] * 9})
    board = BoardReference("lab:a", power_cycle=(sys.executable, "-c", ""))
    assert look_at(tmp_path, BoardRules(boot_s=0.0))(board, "power cycle") == "board 'a' does not answer"
    absent = look_at(tmp_path, RULES)(BoardReference("lab:nobody"), "check")
    assert absent is not None
    assert "nobody" in absent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_look_that_hangs_is_given_up_and_what_it_says_later_is_not_heard() -> None:
    clock, notes, wait = Clock(), list[str](), [True]

    def look(board: BoardReference, remedy: str) -> str | None:
        while wait[0]:
            time.sleep(0.01)
        return None

    crew = BoardCrew([BoardReference("a", limit_s=10.0)], look=look, note=notes.append, rules=RULES, clock=clock)
    crew.give("stage")
    crew.lost("stage", "it does not answer")
    crew.step(idle=True)
    clock.now = 1000.0
    crew.step(idle=True)
    assert any("a look at it did not end" in note for note in notes)
    assert crew.summary()["a"]["state"] == "in quarantine"
    wait[0] = False
    time.sleep(0.1)
    crew.step(idle=True)
    assert crew.summary()["a"]["state"] == "in quarantine"  # until the next look


def test_a_look_that_raises_is_a_problem_and_not_the_end() -> None:
    def look(board: BoardReference, remedy: str) -> str | None:
        raise RuntimeError("a bug")

    notes: list[str] = []
    crew = BoardCrew([BoardReference("a")], look=look, note=notes.append, rules=RULES)
    crew.give("stage")
    crew.lost("stage", "it does not answer")
    deadline = time.monotonic() + 10
    while not crew.summary()["a"].get("reason", "").startswith("the look at it failed") and time.monotonic() < deadline:
        crew.step(idle=True)
        time.sleep(0.01)
    assert "RuntimeError: a bug" in crew.summary()["a"]["reason"]
