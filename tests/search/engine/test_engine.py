"""The loop with real stages on tiny digits, in this process: no Ray, so that a test can see every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from _bench import TEXT, Bench, Deaf, Killed, Spy
from _inline import InlinePool
from optuna.trial import TrialState

from edgesearch.board_eval import find_board
from edgesearch.objectives import Estimator
from edgesearch.search.engine._engine import Engine
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.spaces import Candidate, Student


def test_trials_record_all_that_is_known_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    summary = bench.run(3)
    assert (summary.finished, summary.failed) == (3, 0)
    for trial in bench.study().get_trials():
        attributes = trial.user_attrs
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [attributes["accuracy"], attributes["fps"]]
        assert {"candidate", "latency_ms", "size_bytes", "macs", "parameters", "estimated_fps", "artifacts"} <= set(attributes)
        ran, reused = set(attributes["stage_seconds"]), set(attributes["cache_hits"])
        assert ran | reused == set(attributes["artifacts"])


def test_nothing_is_computed_twice_in_this_study_or_another(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.run(4)
    second = Bench(tmp_path, TEXT.replace('"tiny"', '"other"'))
    computed: list[str] = []
    second.run(4, Spy(lambda _, job: computed.append(job.key)))
    assert computed == []
    assert [values for _, values in second.results()] == [values for _, values in first.results()]


def test_a_study_goes_on_with_more_trials_and_has_no_duplicates(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    bench.run(6)
    keys = [key for key, _ in bench.results()]
    assert len(keys) == len(set(keys)) == 6


def test_an_exhausted_space_ends_the_study(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    summary = bench.run(50)
    assert summary.exhausted
    assert len(bench.results()) == 8  # two students, two widths, pruned or not
    again = bench.run(51)  # a search that finds nothing is no repeat
    assert (again.finished, again.rejected, again.repeats, again.exhausted) == (0, 0, 0, True)


def test_candidates_that_were_rejected_are_told_once_and_are_no_repeats(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT + "\n[constraints]\nmin_fps = 1e9\n")
    for _ in range(2):  # what an earlier run counted is not told again
        summary = bench.run(3)
        assert (summary.finished, summary.rejected, summary.repeats, summary.exhausted) == (0, 8, 0, True)


def test_a_study_that_goes_on_counts_each_rejected_candidate_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT + "\n[constraints]\nmax_size_bytes = 5000\n")
    kept = ("rejected", "rejections", "rejected_keys")
    counted = []
    for trials in (1, 50, 50):
        bench.run(trials)
        counted.append({name: bench.study().user_attrs.get(name) for name in kept})
    assert counted[1]["rejected"] == len(counted[1]["rejected_keys"]) > 0
    assert counted[2] == counted[1]


def test_a_driver_killed_at_any_job_leaves_a_study_that_ends_the_same(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole")
    whole.run(5)
    broken = Bench(tmp_path / "broken")

    def kill_at(limit: int) -> Callable[[int, Job], None]:
        def event(count: int, job: Job) -> None:
            if count == limit:
                raise Killed

        return event

    for limit in (1, 2, 1, 3, 2):
        try:
            broken.run(5, Spy(kill_at(limit)))
        except Killed:
            assert sum(t.state == TrialState.RUNNING for t in broken.study().get_trials()) <= 1
    broken.run(5)
    assert broken.results() == whole.results()


def test_after_a_kill_a_trial_has_paid_for_what_was_made_for_it_and_not_for_what_another_study_made(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("[space]")] + '[[candidates]]\nstudent = { architecture = "cnn_tiny", input_size = 8 }\n'
    Bench(tmp_path, text).run(1)
    pruned = text + 'pruning = { method = "one_step", ratio = 0.5, granularity = 8 }\n'
    other = Bench(tmp_path, pruned.replace('"tiny"', '"other"'))
    made: list[str] = []

    def event(count: int, job: Job) -> None:
        if count == 3:
            raise Killed
        made.append(job.stage["kind"])

    with pytest.raises(Killed):
        other.run(1, Spy(event))
    assert len(made) == 2
    other.run(1)
    attributes = other.study().get_trials()[0].user_attrs
    assert set(made) < set(attributes["stage_seconds"])
    assert all(attributes["stage_seconds"][kind] > 0 for kind in made)
    assert "student" in attributes["cache_hits"]
    assert "student" not in attributes["stage_seconds"]


def test_candidates_that_break_a_constraint_are_rejected_before_training_and_are_no_trials(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT + "\n[constraints]\nmax_size_bytes = 5000\n")
    summary = bench.run(50)
    trials = bench.study().get_trials()
    assert summary.rejected > 0
    assert len(trials) + summary.rejected == 8
    for trial in trials:  # a pruned one may turn out to break it once its channels are chosen
        keeps = trial.user_attrs["size_bytes"] <= 5000
        assert trial.state == (TrialState.COMPLETE if keeps else TrialState.PRUNED)
        assert keeps or trial.user_attrs["candidate"]["pruning"]["ratio"]
    attributes = bench.study().user_attrs
    assert attributes["rejections"] == {"max_size_bytes": summary.rejected}
    (miss,) = attributes["nearest_rejected"]["misses"].values()
    assert miss["expected"] > miss["limit"] == 5000


def test_accuracy_below_its_limit_is_recorded_as_a_violation(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT + "\n[constraints]\nmin_accuracy = 0.999\n")
    bench.run(2)
    for trial in bench.study().get_trials():
        assert trial.user_attrs["violations"] == pytest.approx({"min_accuracy": 0.999 - trial.user_attrs["accuracy"]})
        assert trial.system_attrs["constraints:min_accuracy"] > 0


class Script(InlinePool):
    """Jobs end when, and as, the test says: `turns` maps the number of a call of `wait` to what ends then."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.most = 0

    def submit(self, job: Job) -> None:
        super().submit(job)
        self.most = max(self.most, len(self._jobs))
        assert len(self._jobs) <= self.slots


def test_stages_of_several_trials_fill_the_workers_and_every_stage_runs_once(tmp_path: Path) -> None:
    """The first trials all need one teacher: the workers that wait for it take other trials' stages."""
    text = TEXT.replace(
        "[train]", '[teacher]\narchitecture = "cnn_small"\ninput_size = 8\n[teacher.recipe]\nepochs = 1\nlr = 2e-3\n[train]'
    )
    bench = Bench(tmp_path, text.replace("[space]", '[space]\ndistillation = ["none", "logit"]'))
    pool = Script(3)
    kinds: list[str] = []
    keys: list[str] = []
    submit = pool.submit

    def keep(job: Job) -> None:
        kinds.append(job.stage["kind"])
        keys.append(job.key)
        submit(job)

    pool.submit = keep  # type: ignore[method-assign]
    summary = bench.run(6, pool)
    assert summary.finished == 6
    assert pool.most == 3
    assert len(keys) == len(set(keys))
    assert kinds.count("teacher") == 1


class Lingering(InlinePool):
    """The first job that it is given ends after all others."""

    first = ""

    def submit(self, job: Job) -> None:
        self.first = self.first or job.key
        super().submit(job)

    def wait(self, timeout: float) -> list[JobResult]:
        if self._jobs and self._jobs[0].key == self.first:
            self._jobs.rotate(-1)
        return super().wait(timeout)


def test_a_study_ends_when_no_stage_runs_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a trial that has ended, since another of its stages failed, is not left to whoever uses the workers next."""
    pool, advance = Lingering(slots=2), Engine._advance
    begun: list[Engine] = []

    def begin_another(engine: Engine) -> None:
        if not begun:
            begun.append(engine)
            other = Candidate(student=Student(architecture="mlp", input_size=8, width=0.25)).canonical()
            engine._stages.start(engine._plans.stages(other)[0])
        advance(engine)

    monkeypatch.setattr(Engine, "_advance", begin_another)
    assert Bench(tmp_path).run(1, pool).finished == 1
    assert begun[0]._stages.is_idle
    assert pool.wait(0.0) == []


def test_a_teacher_that_three_trials_wait_for_runs_before_the_student_of_an_older_one(tmp_path: Path) -> None:
    student = '[[candidates]]\nstudent = { architecture = "mlp", input_size = 8, width = WIDTH }\n'
    teacher = '[teacher]\narchitecture = "cnn_tiny"\ninput_size = 8\n[teacher.recipe]\nepochs = 1\nlr = 2e-3\n'
    text = TEXT[: TEXT.index("[space]")] + teacher
    for width in (0.25, 0.5, 0.75, 1.0):
        text += student.replace("WIDTH", str(width)) + ('distillation = { kind = "logit" }\n' if width > 0.25 else "")
    bench = Bench(tmp_path, text)
    with pytest.raises(Killed):
        bench.run(4, Deaf(slots=4))
    assert [trial.state for trial in bench.study().get_trials()] == [TrialState.RUNNING] * 4
    kinds: list[str] = []
    bench.run(4, Spy(lambda _, job: kinds.append(job.stage["kind"])))
    assert kinds[0] == "teacher"
    assert kinds.count("student") == 4


def test_a_teacher_no_better_than_its_student_is_told_once_with_both_numbers(tmp_path: Path) -> None:
    untaught = '[teacher]\narchitecture = "cnn_small"\ninput_size = 8\n[teacher.recipe]\nepochs = 1\nlr = 1e-12\n[train]'
    text = TEXT.replace("[train]", untaught).replace("[space]", '[space]\ndistillation = ["nkd"]')
    bench = Bench(tmp_path, text)
    bench.run(2, Script(1))
    told = [note for note in bench.progress.notes if "the student of trial" in note]
    trials = bench.study().get_trials()
    worse = [t for t in trials if t.user_attrs["student_accuracy"] >= t.user_attrs["teacher_accuracy"]]
    assert len(told) == min(len(worse), 1) == 1
    assert f"{worse[0].user_attrs['student_accuracy']:.2%}" in told[0]
    assert f"{worse[0].user_attrs['teacher_accuracy']:.2%}" in told[0]


def test_a_space_with_a_range_without_steps_is_never_called_exhausted(tmp_path: Path) -> None:
    text = TEXT.replace("width = [0.5, 1.0]", "width = { low = 0.5, high = 0.6 }") + "\n[constraints]\nmax_size_bytes = 1\n"
    bench = Bench(tmp_path, text)
    bench.run(1)
    assert "though the space has more" in bench.progress.notes[-1]


def test_progress_lines_count_from_the_first_trial_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from edgesearch.search.engine import PlainProgress

    bench = Bench(tmp_path)
    bench.progress = PlainProgress(Console(width=200))  # type: ignore[assignment]
    bench.run(1)
    again = Bench(tmp_path, TEXT.replace('"tiny"', '"other"'))
    again.progress = PlainProgress(Console(width=200))  # type: ignore[assignment]
    again.run(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines if line.startswith("[")] == ["[1/1", "[1/2", "[2/2"]


IGNORES = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels, width):
        body = nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*body, nn.Linear(8, num_classes))
"""


def test_widths_that_a_network_ignores_are_one_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ignoring.py").write_text(IGNORES)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = TEXT.replace('students = ["mlp", "cnn_tiny"]', 'students = ["ignoring:Net"]').replace(
        "width = [0.5, 1.0]", "width = [0.25, 0.5, 1.0, 2.0]"
    )
    bench = Bench(tmp_path, text.replace('pruning = ["none", "one_step"]\n', ""))
    summary = bench.run(1)
    assert (summary.finished, summary.exhausted) == (1, False)
    summary = bench.run(4)  # another driver knows the first one's network
    assert (summary.finished, summary.failed, summary.rejected, summary.exhausted) == (0, 0, 0, True)
    assert summary.repeats >= 3
    told = [note for note in bench.progress.notes if "layer by layer the network of trial 0" in note]
    assert 1 <= len(told) <= 3
    assert all("Net" in note and "\n" not in note for note in told)


def test_ratios_that_a_network_cannot_reach_are_one_candidate_and_told_once(tmp_path: Path) -> None:
    text = TEXT.replace('students = ["mlp", "cnn_tiny"]', 'students = ["cnn_tiny"]').replace(
        "width = [0.5, 1.0]", "width = [1.0]"
    )
    text = text.replace('pruning = ["none", "one_step"]', 'pruning = ["one_step"]')
    text = text.replace("ratio = [0.5]", "ratio = [0.8, 0.85, 0.9]").replace("granularity = [8]", "granularity = [16]")
    bench = Bench(tmp_path, text)
    summary = bench.run(3)
    assert (summary.finished, summary.failed, summary.exhausted) == (1, 0, True)
    told = [note for note in bench.progress.notes if note.startswith("out of reach: ")]
    assert len(told) == 1
    (trial,) = bench.study().get_trials()
    macs = trial.user_attrs["estimated_macs"]
    whole = Estimator(channels=1, classes=10, board=find_board("zcu104")).estimate(
        Candidate.model_validate({"student": {"architecture": "cnn_tiny", "input_size": 8}})
    )["macs"]
    assert f"but {1 - macs / whole:.1%} of its MACs" in told[0]
