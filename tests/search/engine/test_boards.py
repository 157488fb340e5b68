"""Studies that boards score: fake boards that really execute what they are given, and fail as a script says."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from _fake_boards import SLOWER, deeds, write_boards
from _inline import InlinePool
from optuna.trial import FrozenTrial, TrialState

from edgesearch.board_eval import find_board, find_pool
from edgesearch.errors import StudyError
from edgesearch.objectives import Conditions, Estimator, Store, load_data
from edgesearch.search.crew._allocation import BoardRules
from edgesearch.search.crew._crew import BoardCrew
from edgesearch.search.crew._look import look_at
from edgesearch.search.engine._engine import Engine
from edgesearch.search.engine._summary import Summary
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.search.study import pareto_front, read_study
from edgesearch.search.study._file import parse_study
from edgesearch.search.study._home import Home
from edgesearch.search.study._storage import create_or_resume, open_storage
from edgesearch.spaces import Candidate

TEXT = """
name = "tiny"
score = "board"
boards = ["lab:a", "lab:b"]
board_images = 60
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 1
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
"""
#: Quarantined boards are looked at again at once.
RULES = BoardRules(check_s=0.05, longest_check_s=0.05, boot_s=0.2, hook_s=10.0, wait_s=1.0)


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        pass

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        pass

    def about(self, words: str) -> int:
        return sum(words in note for note in self.notes)


class Bench:
    """A study in a folder that lab.py's boards score."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.home.prepare()
        self.settings = parse_study(text.encode(), where="t", folder=folder)
        self.progress = Notes()

    def study(self) -> optuna.Study:
        return create_or_resume(open_storage(self.home.database), self.settings)

    def trials(self) -> list[FrozenTrial]:
        return self.study().get_trials()

    def run(
        self,
        trials: int,
        pool: InlinePool | None = None,
        *,
        rules: BoardRules = RULES,
        hook: tuple[str, ...] = (),
        limit_s: float = 900.0,
    ) -> Summary:
        data, board, settings = load_data(self.settings.data), find_board(self.settings.board), self.settings
        boards = find_pool(settings.boards, folder=self.folder)
        members = [replace_reference(member, hook, limit_s) for member in boards.members]
        engine = Engine(
            study=self.study(),
            settings=settings,
            conditions=Conditions.of(data, settings.pipeline, board, pool=boards, board_images=settings.board_images),
            estimator=Estimator(channels=data.channels, classes=len(data.classes), board=board),
            store=Store(self.home.store, warn=self.progress.note),
            pool=pool or InlinePool(),
            progress=self.progress,
            logs=self.home.logs(settings.name),
            folder=self.folder,
            boards=BoardCrew(members, look=look_at(self.folder, rules), note=self.progress.note, rules=rules),
        )
        return engine.run(trials)


def replace_reference(member: Any, hook: tuple[str, ...], limit_s: float) -> Any:
    return type(member)(member.name, member.file, limit_s, hook)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Spy(InlinePool):
    """Calls `event` with each job before it is run; a result that it gives stands for the job's."""

    def __init__(self, event: Callable[[Job], JobResult | None]) -> None:
        super().__init__()
        self.event = event

    def wait(self, timeout: float) -> list[JobResult]:
        if not self._jobs:
            return super().wait(timeout)
        result = self.event(self._jobs[0])
        if result is not None:
            self._jobs.popleft()
            return [result]
        return super().wait(timeout)


def test_measured_values_replace_simulated_ones_and_both_are_kept(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    assert bench.run(2).finished == 2
    for trial in bench.trials():
        a = trial.user_attrs
        assert trial.values == [a["accuracy"], a["fps"]]
        assert a["fps"] == pytest.approx(a["simulated_fps"] / SLOWER)
        assert a["fps_difference"] == pytest.approx(1 / SLOWER - 1)
        assert a["latency_ms"] > a["simulated_latency_ms"]
        assert a["latency_fps"] == pytest.approx(1e3 / a["latency_ms"])
        assert a["simulated"]["fps"] == a["simulated_fps"]
        assert (a["accuracy_of"], a["accuracy"]) == ("integers", a["simulated_accuracy"])
        assert (a["board_images"], a["logits_differ"]) == (60, 0)
        assert "fps_error" not in a  # it is of the prediction
        told = a["conditions"]
        assert told["integers"] == "equal to this program's integers on all 60 images"
        assert told["power"] == "12 W busy, 8 W idle, the difference 4 W (ina226)"
        assert told["dpu"] == "B4096"  # neither the board nor a profile tells more
        assert (told["fingerprint"], told["vart"], told["temperature"]) == ("0x101000056010407", "3.5.0", "not available")
        assert "5 repeats within 0.0%" in told["throughput"]
        assert (a["joules"], a["net_joules"]) == (pytest.approx(12 / a["fps"]), pytest.approx(4 / a["fps"]))
        assert (a["power_w"], a["idle_power_w"]) == (12.0, 8.0)
        assert {"compiled", "on_board"} <= set(a["artifacts"])


def test_boards_share_the_work_and_the_key_does_not_say_which_served(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    bench.run(4)
    assert {trial.user_attrs["measured_by"] for trial in bench.trials()} == {"lab:a", "lab:b"}
    again = Bench(tmp_path, TEXT.replace('"tiny"', '"other"').replace('["lab:a", "lab:b"]', '["lab:b", "lab:a"]'))
    before = len(deeds(tmp_path, "a")) + len(deeds(tmp_path, "b"))
    assert again.run(4).finished == 4
    assert len(deeds(tmp_path, "a")) + len(deeds(tmp_path, "b")) == before  # measured once per network and pool


def test_where_logits_differ_the_accuracy_is_the_boards_own_and_says_so(tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["wrong"] * 9}, b={"run": ["wrong"] * 9})
    bench = Bench(tmp_path)
    bench.run(1)
    a = bench.trials()[0].user_attrs
    assert (a["accuracy_of"], a["logits_differ"], a["largest_difference"]) == ("board", 1, 1)
    assert a["accuracy"] == a["board_correct"] / 60
    assert a["conditions"]["integers"].endswith("the simulated accuracy does not hold")
    assert a["accuracy_difference"] == a["accuracy"] - a["simulated_accuracy"]


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


def test_a_driver_killed_at_any_job_leaves_a_study_that_loses_nothing(tmp_path: Path) -> None:
    write_boards(tmp_path)
    bench = Bench(tmp_path)
    for limit in (1, 4, 5, 3):
        left = [limit]

        def event(job: Job, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise Killed

        with contextlib.suppress(Killed):
            bench.run(3, Spy(event))
    bench.run(3)
    assert [t.state for t in bench.trials()] == [TrialState.COMPLETE] * 3
    runs = [deed for name in "ab" for deed in deeds(tmp_path, name)]
    assert runs == ["run ok"] * 3  # nothing was measured twice


#: Networks some of which are slower than others beyond any doubt, which the host's part in small ones leaves much of.
FRONT = TEXT.replace('"board"', '"board-front"').replace(
    'students = ["mlp", "cnn_tiny"]\nwidth = [0.5, 1.0]', 'students = ["mlp", "cnn_tiny", "cnn_small"]\nwidth = [0.5, 2.0, 4.0]'
)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A study of eight trials whose front was measured."""
    folder = tmp_path_factory.mktemp("front")
    write_boards(folder)
    bench = Bench(folder, FRONT)
    bench.run(8)
    return bench


def test_board_front_measures_all_of_the_front_and_not_all_trials(front: Bench) -> None:
    view = read_study(front.study())
    measured = [record for record in view.records if record.measured_by]
    assert 0 < len(measured) < len(view.records)
    assert all(record.measured_by for record in pareto_front(view))
    runs = [deed for name in "ab" for deed in deeds(front.folder, name)]
    assert len(runs) == len(measured)


def test_later_simulated_scores_are_corrected_by_what_was_measured(front: Bench) -> None:
    trials = front.trials()
    assert "correction" not in trials[0].user_attrs or trials[0].user_attrs["correction"]["measurements"] == 0
    told = [t.user_attrs for t in trials if "measured_by" not in t.user_attrs]
    assert told
    for a in told:
        assert a["correction"]["measurements"] > 0
        assert a["correction"]["dpu"] > 1.0
        assert a["simulated_fps"] / SLOWER * 0.98 < a["fps"] < a["simulated_fps"]
        assert a["fps_error"] >= a["simulated"]["fps_error"]
    last = [t.user_attrs for t in trials if "measured_by" in t.user_attrs][-1]
    assert abs(last["expected_fps"] / last["fps"] - 1) < abs(last["simulated_fps"] / last["fps"] - 1)
