"""Fake boards that fail as a script says: whose fault it is, who does the work instead, and when a study stops."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _board_bench import Bench, Notes, Spy
from _fake_boards import deeds, write_boards
from _inline import InlinePool
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.search.crew._allocation import BoardRules
from edgesearch.search.processes._jobs import Job, JobResult


def test_a_lost_board_gives_its_job_to_another_and_is_checked(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["lost"]})
    bench = Bench(tmp_path)
    assert bench.run(2).finished == 2
    first = bench.trials()[0].user_attrs
    assert first["measured_by"] == "lab:b"
    assert [(fault["board"], fault["reason"]) for fault in first["board_faults"]] == [("lab:a", "board 'a' does not answer")]
    assert "canary ok" in deeds(tmp_path, "a")
    assert "board_faults" not in bench.trials()[1].user_attrs
    assert bench.study().user_attrs["boards"]["lab:a"]["lost"] == 1


def test_a_board_that_fails_its_canary_is_out_and_another_does_all_the_work(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["lost"], "canary": ["wrong"] * 1000})
    bench = Bench(tmp_path)
    assert bench.run(4).finished == 4, [trial.user_attrs.get("failure") for trial in bench.trials()]
    assert {trial.user_attrs["measured_by"] for trial in bench.trials()} == {"lab:b"}
    known = bench.study().user_attrs["boards"]["lab:a"]
    assert known["state"] == "in quarantine"
    assert "wrong logits for 1 of 4 images" in known["reason"]
    assert bench.progress.about("board lab:a: is in quarantine") == 1


def test_the_power_cycle_command_is_run_once_without_a_shell_and_mends_the_board(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["off"]}, b={"run": ["off"]})
    bench = Bench(tmp_path)
    marks = tmp_path / "marks; exit 1"  # a shell would stumble over it
    marks.mkdir()
    (tmp_path / "a.on").unlink(missing_ok=True)
    script = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'a.on').touch(); pathlib.Path({str(tmp_path)!r}, 'b.on').touch()"
    hook = (sys.executable, "-c", f"import sys; open(sys.argv[1] + '/mark', 'a').write('x'); {script}", str(marks))
    assert bench.run(3, hook=hook).finished == 3
    assert len((marks / "mark").read_text()) in (1, 2)  # once for a board, and once for the other if it was used before
    assert bench.progress.about("its power is cut and given back") == len((marks / "mark").read_text())


def test_all_boards_out_stop_the_study_with_one_sentence_and_it_goes_on_later(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["ok", "off"]}, b={"run": ["off"]})
    bench = Bench(tmp_path)
    with pytest.raises(StudyError, match=r"no board came back within .*lab:a: .*lab:b: .*same command again"):
        bench.run(3)
    assert bench.progress.about("every board is in quarantine") == 1
    trained = [t.user_attrs.get("candidate_key") for t in bench.trials()]
    for name in "ab":
        (tmp_path / f"{name}.on").touch()
    computed: list[str] = []
    assert bench.run(3, Spy(lambda job: computed.append(job.stage["kind"]))).finished == 3 - 1
    assert [t.user_attrs["candidate_key"] for t in bench.trials()][: len(trained)] == trained
    assert computed[0] == "on_board"  # what was trained is not trained again
    assert all(t.state == TrialState.COMPLETE for t in bench.trials())


def test_a_board_that_comes_back_in_time_ends_the_waiting(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["off"]}, b={"run": ["off"]})
    bench = Bench(tmp_path)

    def come_back(note: str) -> None:
        if "every board is in quarantine" in note:
            (tmp_path / "b.on").touch()
        Notes.note(bench.progress, note)

    bench.progress.note = come_back  # type: ignore[method-assign]
    assert bench.run(2, rules=BoardRules(check_s=0.05, longest_check_s=0.05, wait_s=60.0)).finished == 2
    assert {trial.user_attrs["measured_by"] for trial in bench.trials()} == {"lab:b"}
    assert bench.progress.about("out of quarantine") == 1


def test_a_network_that_a_board_refuses_fails_with_its_reason_and_no_board_suffers(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["refuse"]})
    bench = Bench(tmp_path)
    summary = bench.run(2)
    assert (summary.finished, summary.failed) == (1, 1)
    failure = bench.trials()[0].user_attrs["failure"]
    assert "it does not like it (that board ran a small network right after)" in failure
    assert "board_faults" not in bench.trials()[0].user_attrs
    assert deeds(tmp_path, "a")[:2] == ["run refuse", "canary ok"]  # the network is blamed once the board is known to be well
    assert bench.study().user_attrs["boards"]["lab:a"]["lost"] == 0


@pytest.mark.parametrize(("deed", "reason"), [("refuse", "it does not like it"), ("unfit", "shows another key")])
def test_a_board_that_serves_nobody_costs_no_candidate_and_a_sound_one_measures_all(
    deed: str, reason: str, tmp_path: Path
) -> None:
    """Its network is not blamed, and its power is not cut: that would mend nothing."""
    write_boards(tmp_path, a={"run": [deed] * 9, "canary": [deed] * 1000})
    bench = Bench(tmp_path)
    summary = bench.run(2, hook=(sys.executable, "-c", ""))
    assert (summary.finished, summary.failed) == (2, 0)
    assert {trial.user_attrs["measured_by"] for trial in bench.trials()} == {"lab:b"}
    fault = bench.trials()[0].user_attrs["board_faults"][0]
    assert (fault["board"], reason in fault["reason"]) == ("lab:a", True)
    known = bench.study().user_attrs["boards"]["lab:a"]
    assert (known["state"], reason in known["reason"]) == ("in quarantine", True)
    assert deeds(tmp_path, "a").count(f"run {deed}") == 1
    assert bench.progress.about("its power is cut") == 0


def test_a_board_that_was_mended_measures_what_it_refused_before(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["unfit"], "canary": ["unfit"]}, b={"run": ["unfit"], "canary": ["unfit"]})
    bench = Bench(tmp_path)
    patient = BoardRules(check_s=0.05, longest_check_s=0.05, wait_s=60.0)
    assert (bench.run(1, rules=patient).finished, bench.trials()[0].state) == (1, TrialState.COMPLETE)


def test_a_network_that_busy_boards_do_not_take_waits_and_does_not_fail(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    busy: list[str] = []

    def event(job: Job) -> JobResult | None:
        if job.stage["kind"] == "on_board" and len(busy) < 8:
            busy.append(job.key)
            return JobResult(job.key, "board_busy", 0.0, "another program has the board")
        return None

    summary = bench.run(1, Spy(event))
    assert (summary.finished, summary.failed, len(busy)) == (1, 0, 8)


def test_a_network_that_healthy_boards_lose_again_and_again_fails_alone(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    doomed: list[str] = []

    def event(job: Job) -> JobResult | None:
        if job.stage["kind"] == "on_board" and (not doomed or job.key in doomed):
            doomed.append(job.key)
            return JobResult(job.key, "board_lost", 0.0, "the board hangs")
        return None

    summary = bench.run(3, Spy(event))
    assert (summary.finished, summary.failed) == (2, 1)
    failed = bench.trials()[0].user_attrs
    assert "by boards that ran a small network right after" in failed["failure"]
    assert len(failed["board_faults"]) == len(doomed)
    assert 5 <= len(doomed) <= 6  # one more where the other board lost it while the first was looked at
    assert bench.progress.about("trying again") == 0  # never the stage's own death


def test_a_job_that_hangs_is_stopped_and_counts_as_the_boards_fault(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)

    class Hanging(InlinePool):
        """Its first job on a board does not end until it is cancelled."""

        hung, stopped = "", False

        def wait(self, timeout: float) -> list[JobResult]:
            if self._jobs and self._jobs[0].board_name and self.hung in ("", self._jobs[0].key) and not self.stopped:
                self.hung = self._jobs[0].key
                return []
            return super().wait(timeout)

        def cancel(self, key: str) -> bool:
            self.stopped = key == self.hung
            self._jobs = type(self._jobs)(job for job in self._jobs if job.key != key)
            self._ended = [JobResult(key, "lost", 0.0, "it was stopped")]
            return True

    class Pool(Hanging):
        def wait(self, timeout: float) -> list[JobResult]:
            ended, self._ended = getattr(self, "_ended", []), []
            return ended or super().wait(timeout)

    assert bench.run(2, Pool(), limit_s=0.3).finished == 2
    faults = bench.trials()[0].user_attrs["board_faults"]
    assert len(faults) == 1
    assert "did not end in" in faults[0]["reason"]
