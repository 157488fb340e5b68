"""Looks at boards: the power-cycle command, and boards that come back or do not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from _fake_boards import deeds, write_boards

from edgesearch.board_eval import BoardProblem, BoardReference
from edgesearch.errors import BoardUnfit
from edgesearch.search.crew._allocation import BoardRules
from edgesearch.search.crew._crew import BoardCrew
from edgesearch.search.crew._look import cycle_power, look_at

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
    monkeypatch.setattr("edgesearch.search.crew._look._PAUSE_S", 0.01)
    write_boards(tmp_path, a={"canary": ["lost", "ok"]})
    board = BoardReference("lab:a", power_cycle=(sys.executable, "-c", ""))
    assert look_at(tmp_path, RULES)(board, "power cycle") is None
    assert deeds(tmp_path, "a") == ["canary lost", "canary ok"]


def test_a_board_that_does_not_come_back_says_why(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"canary": ["lost"] * 9})
    board = BoardReference("lab:a", power_cycle=(sys.executable, "-c", ""))
    assert look_at(tmp_path, BoardRules(boot_s=0.0))(board, "power cycle") == BoardProblem("board 'a' does not answer")
    absent = look_at(tmp_path, RULES)(BoardReference("lab:nobody"), "check")
    assert absent is not None
    assert "nobody" in absent.reason
    assert absent.needs_hands


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_look_that_hangs_is_given_up_and_what_it_says_later_is_not_heard() -> None:
    clock, notes, wait = Clock(), list[str](), [True]

    def look(board: BoardReference, remedy: str) -> BoardProblem | None:
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
    def look(board: BoardReference, remedy: str) -> BoardProblem | None:
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


def test_a_board_that_is_busy_keeps_its_power_and_accuses_no_stage() -> None:
    said: list[BoardProblem | None] = [BoardProblem("another program has it", is_busy=True)]
    looks: list[str] = []

    def look(board: BoardReference, remedy: str) -> BoardProblem | None:
        looks.append(remedy)
        return said[0]

    def turn(state: str) -> None:
        deadline = time.monotonic() + 10
        while (crew.summary()["a"]["state"], crew._looking) != (state, {}) and time.monotonic() < deadline:
            crew.step(idle=False)
            time.sleep(0.005)
        assert crew.summary()["a"]["state"] == state

    rules = BoardRules(check_s=0.01, longest_check_s=0.01)
    board = BoardReference("a", power_cycle=("reboot",))
    crew = BoardCrew([board], look=look, note=lambda _: None, rules=rules)
    for _ in range(6):
        crew.give("stage")
        crew.lost("stage", "another program has it", is_busy=True)
        turn("in quarantine")
        said[0] = None
        turn("ready")
        said[0] = BoardProblem("another program has it", is_busy=True)
    assert set(looks) == {"check"}
    assert not crew.blame("stage")


def test_outages_of_a_board_accuse_a_stage_only_after_many_of_them() -> None:
    rules, said = BoardRules(check_s=0.01, longest_check_s=0.01), [BoardProblem("no power")]
    crew = BoardCrew([BoardReference("a")], look=lambda board, remedy: said[0], note=lambda _: None, rules=rules)

    def turn(problem: BoardProblem | None, state: str) -> None:
        said[0] = problem  # type: ignore[call-overload]
        deadline = time.monotonic() + 10
        while (crew.summary()["a"]["state"], crew._looking) != (state, {}) and time.monotonic() < deadline:
            crew.step(idle=False)
            time.sleep(0.005)
        assert crew.summary()["a"]["state"] == state

    for number in range(8):
        assert not crew.blame("stage"), number
        crew.give("stage")
        if number % 2:
            crew.lost("stage", "it does not answer")
        else:
            crew.refused("stage", "it is not of this DPU")
        turn(BoardProblem("no power"), "in quarantine")
        crew.verdicts()
        turn(None, "ready")
    assert crew.blame("stage") == "by boards that ran no small network any more"
    for _ in range(4):
        assert not crew.blame("other")
        crew.give("other")
        crew.lost("other", "it does not answer")
        turn(None, "ready")
    assert crew.blame("other") == "by boards that ran a small network right after"


ANSWERS: dict[str, BoardProblem | None] = {
    "well": None,
    "away": BoardProblem("off"),
    "unfit": BoardProblem("no key", needs_hands=True),
}


def crew_of(*names: str, notes: list[str] | None = None, slow: float = 0.0) -> BoardCrew:
    """Boards that say at every look what their names say."""

    def look(board: BoardReference, remedy: str) -> BoardProblem | None:
        time.sleep(slow)
        return ANSWERS[board.name.partition("-")[0]]

    note = (notes if notes is not None else []).append
    return BoardCrew([BoardReference(name) for name in names], look=look, note=note, rules=RULES)


def states(crew: BoardCrew) -> dict[str, object]:
    return {name: known["state"] for name, known in crew.summary().items()}


def verdicts(crew: BoardCrew) -> list[tuple[str, str]]:
    """Of refused stages: which is to blame, the board or (as "") the stage, once one is known."""
    deadline = time.monotonic() + 30
    while not (known := crew.verdicts()) and time.monotonic() < deadline:
        crew.step(idle=False)
        time.sleep(0.005)
    return [(verdict.key, "" if verdict.fault is None else verdict.fault.board) for verdict in known]


def test_a_refusal_is_the_networks_where_the_board_is_well_and_else_the_boards() -> None:
    for name, blamed, state in (("well", "", "ready"), ("away", "away", "in quarantine"), ("unfit", "unfit", "in quarantine")):
        crew = crew_of(name)
        crew.give("stage")
        crew.refused("stage", "no")
        assert crew.has_room("another") is False  # until it was looked at
        assert verdicts(crew) == [("stage", blamed)]
        assert states(crew) == {name: state}
        assert crew.summary()[name]["lost"] == (1 if blamed else 0)
        assert crew.verdicts() == []


def test_a_look_that_began_before_a_refusal_does_not_charge_it_to_the_network() -> None:
    crew = crew_of("well", slow=0.2)
    for key in ("first", "second"):
        crew.give(key)
    crew.lost("first", "it does not answer")
    crew.step(idle=False)  # the look begins
    crew.refused("second", "no")
    while not (known := crew.verdicts()):
        assert not crew.has_room("another")  # before the second look
        crew.step(idle=False)
    assert [verdict.fault for verdict in known] == [None]
    assert crew._looked == 2


def test_a_refusal_by_a_board_that_is_out_is_the_boards() -> None:
    crew = crew_of("away")
    for key in ("first", "second"):
        crew.give(key)
    crew.lost("first", "it does not answer")
    deadline = time.monotonic() + 30
    while states(crew) != {"away": "in quarantine"} and time.monotonic() < deadline:
        crew.step(idle=False)
        time.sleep(0.005)
    crew.refused("second", "no")
    assert [(v.key, v.fault and v.fault.board) for v in crew.verdicts()] == [("second", "away")]


def test_the_first_look_tells_of_each_board_and_sets_aside_what_a_person_must_mend() -> None:
    notes: list[str] = []
    crew = crew_of("well", "away", "unfit", notes=notes)
    crew.look_first()
    assert sorted(notes) == [
        "board away: does not serve now: off; what it is to measure waits for it",
        "board unfit: is in quarantine: no key",
    ]
    assert states(crew) == {"well": "ready", "away": "ready", "unfit": "in quarantine"}
    crew_of("away").look_first()  # it may come back in time
    with pytest.raises(BoardUnfit, match=r"no board can measure, and nothing was trained: no key; no key; mend it"):
        crew_of("unfit-1", "unfit-2").look_first()


def test_a_first_look_that_hangs_is_not_waited_for() -> None:
    notes: list[str] = []
    crew = crew_of("well", notes=notes, slow=0.5)
    crew.look_first(0.05)
    assert notes == ["board well: gave no answer in 50 ms; what it is to measure waits for it"]
    time.sleep(0.6)
    crew.step(idle=True)
    assert (states(crew), len(notes)) == ({"well": "ready"}, 1)
