"""The loop with rungs: what is stopped, what goes on, and that breaks change nothing. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from _bench import Killed, Quiet
from _curves import CurvePool, accuracy_after
from _quick_host import write_quick_host
from optuna.trial import FrozenTrial, TrialState

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, Estimator, Store, load_data
from edgesearch.search.engine._engine import Engine
from edgesearch.search.engine._summary import Summary
from edgesearch.search.processes._jobs import JobResult
from edgesearch.search.rungs._rungs import Rungs
from edgesearch.search.study import Home, StudyFile, create_or_resume, open_storage
from edgesearch.search.study._file import parse_study
from edgesearch.search.study._front import non_dominated

TEXT = """
name = "curves"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 27
[space]
students = ["cnn_tiny"]
width = { low = 0.25, high = 4.0, step = 0.05 }
input_size = [8]
[search]
startup_trials = 8
[[candidates]]
student = { architecture = "cnn_tiny", width = 0.3, input_size = 8 }
"""
PRUNING = '\npruning = ["none", "one_step"]\nratio = [0.25, 0.5, 0.75]\ngranularity = [8]\n[search]'


class Bench:
    """A study in a folder, run by as many engines as a test likes."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.home, self.progress = Home(folder), Quiet()
        self.home.prepare()
        self.settings: StudyFile = parse_study(text.encode(), where="t", folder=folder)
        data, board = load_data(self.settings.data), find_board(self.settings.board)
        self.conditions = Conditions.of(data, self.settings.pipeline, board)
        self.estimator = Estimator(channels=data.channels, classes=len(data.classes), board=board)

    def study(self) -> optuna.Study:
        return create_or_resume(open_storage(self.home.database), self.settings)

    def pool(self, slots: int = 1) -> CurvePool:
        return CurvePool(self.home.store, self.estimator.estimate, slots)

    def engine(self, pool: CurvePool) -> Engine:
        return Engine(
            study=self.study(),
            settings=self.settings,
            conditions=self.conditions,
            estimator=self.estimator,
            store=Store(self.home.store),
            pool=pool,
            progress=self.progress,
            logs=self.home.logs(self.settings.name),
        )

    def run(self, trials: int, pool: CurvePool | None = None) -> Summary:
        return self.engine(pool or self.pool()).run(trials)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return [t for t in self.study().get_trials() if not states or t.state in states]

    def results(self) -> list[Any]:
        return [(t.user_attrs["candidate_key"], t.state, t.values, t.user_attrs.get("stopped")) for t in self.trials()]


def front(trials: list[FrozenTrial]) -> set[tuple[float, ...]]:
    values = np.array([t.values for t in trials if t.values])
    return {tuple(values[row]) for row in non_dominated(-values)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, CurvePool, Summary]:
    bench = Bench(tmp_path_factory.mktemp("finished"))
    pool = bench.pool()
    return bench, pool, bench.run(40, pool)


def test_trainings_that_lead_to_nothing_are_stopped(finished: tuple[Bench, CurvePool, Summary]) -> None:
    bench, pool, summary = finished
    stopped, complete = bench.trials(TrialState.PRUNED), bench.trials(TrialState.COMPLETE)
    assert len(stopped) + len(complete) == 40
    assert (summary.finished, summary.stopped, summary.failed) == (len(complete), len(stopped), 0)
    assert len(stopped) >= 10
    in_time = [t for t in stopped if "trained" not in t.user_attrs["stopped"]]
    assert len(in_time) >= 10
    assert pool.jobs["student"] == 40 - len(in_time)
    assert pool.jobs["quantized"] == len(complete)  # what was trained in vain costs nothing more
    assert pool.jobs["rung"] <= 2 * 40
    for trial in stopped:
        account = trial.user_attrs["stopped"]
        assert account["epochs"] == (27 if "trained" in account else (3, 9)[account["rung"] - 1])
        assert account["low"] <= account["middle"] <= account["high"]
        assert "which has too small a chance to reach the front" in account["reason"]
        assert not trial.values
    assert sum("which has too small a chance to reach the front" in note for note in bench.progress.notes) == len(stopped)


def test_what_stays_below_the_least_accuracy_is_told_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT + "[constraints]\nmin_accuracy = 0.995\n")
    bench.run(12)
    stopped = [trial.user_attrs["stopped"] for trial in bench.trials(TrialState.PRUNED)]
    below = [account for account in stopped if account["high"] < 0.995]
    assert below
    for account in stopped:
        told = "does not reach min_accuracy = 99.50%" if account in below else "has too small a chance to reach the front"
        assert account["reason"].endswith(f"%), which {told}")


def test_what_was_stopped_would_not_have_come_to_the_front(finished: tuple[Bench, CurvePool, Summary]) -> None:
    bench, _, _ = finished
    best = np.array(sorted(front(bench.trials(TrialState.COMPLETE))))
    stopped = bench.trials(TrialState.PRUNED)
    lost = 0
    for trial in stopped:
        final = accuracy_after(_student(trial), 27, 27) - 0.005
        lost += not bool((best >= (final, trial.user_attrs["estimated_fps"])).all(axis=1).any())
    assert lost <= len(stopped) // 10


def _student(trial: FrozenTrial) -> dict[str, Any]:
    from edgesearch.spaces import Candidate, identity

    return dict(identity(Candidate.model_validate(trial.user_attrs["candidate"]).student))


def test_the_studys_own_candidates_are_never_stopped(finished: tuple[Bench, CurvePool, Summary]) -> None:
    bench, _, _ = finished
    assert bench.trials()[0].state == TrialState.COMPLETE
    many = Bench(bench.home.root / "many", TEXT + 4 * "".join(_own(width) for width in (0.35, 0.4, 0.45)))
    many.run(20)
    assert {t.state for t in many.trials()[:4]} == {TrialState.COMPLETE}


def _own(width: float) -> str:
    return f'[[candidates]]\nstudent = {{ architecture = "cnn_tiny", width = {width}, input_size = 8 }}\n'


@pytest.mark.parametrize(
    "changes",
    [
        ("[search]", "[search]\nrungs = false"),
        ("epochs = 27", "epochs = 2"),
        ("[train]", 'objectives = ["fps", "size_bytes"]\n[train]'),
    ],
    ids=["off", "short", "no accuracy"],
)
def test_without_rungs_every_training_goes_to_its_end(tmp_path: Path, changes: tuple[str, str]) -> None:
    old, new = changes
    text = TEXT.replace(old, new) if not new.startswith("obj") else 'objectives = ["fps", "size_bytes"]\n' + TEXT
    bench = Bench(tmp_path, text)
    pool = bench.pool()
    bench.run(8, pool)
    assert pool.jobs["rung"] == 0
    assert [t.state for t in bench.trials()] == [TrialState.COMPLETE] * 8


def test_it_trains_less_than_without_rungs(finished: tuple[Bench, CurvePool, Summary]) -> None:
    assert finished[1].spent < 0.75 * 40 * 27


class Kill(CurvePool):
    """Dies before the job with this number."""

    limit = 0

    def wait(self, timeout: float) -> Any:
        if self._jobs and sum(self.jobs.values()) + 1 == self.limit:
            raise Killed
        return super().wait(timeout)


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("[search]", PRUNING)], ids=["plain", "pruned"])
def test_a_driver_killed_at_any_job_leaves_a_study_that_ends_the_same(tmp_path: Path, text: str) -> None:
    whole, broken = Bench(tmp_path / "whole", text), Bench(tmp_path / "broken", text)
    whole.run(24)
    for limit in (1, 2, 5, 3, 9, 4, 14, 7, 2, 8, 11, 6):
        pool = Kill(broken.home.store, broken.estimator.estimate)
        pool.limit = limit
        try:
            broken.run(24, pool)
        except Killed:
            continue
        break
    broken.run(24)
    assert broken.results() == whole.results()


def test_several_workers_end_every_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT.replace("[search]", PRUNING))
    pool = bench.pool(slots=4)
    summary = bench.run(40, pool)
    assert summary.finished + summary.stopped == 40
    assert len(pool.kinds) == len(set(pool.kinds))  # no stage runs twice
    assert not bench.trials(TrialState.RUNNING)


def test_a_pruned_network_that_leads_to_nothing_is_not_quantized(tmp_path: Path) -> None:
    text = "seed = 2\n" + write_quick_host(tmp_path) + TEXT.replace("[search]", PRUNING)  # one that has such a network
    bench = Bench(tmp_path, text)
    pool = bench.pool()
    bench.run(60, pool)
    accounts = [t.user_attrs["stopped"] for t in bench.trials(TrialState.PRUNED)]
    pruned = [account for account in accounts if "pruned" in account]
    assert pruned
    assert all("stopped before it was quantized: pruned, its network has" in account["reason"] for account in pruned)
    assert pool.jobs["quantized"] == len(bench.trials(TrialState.COMPLETE))


def test_a_student_that_another_trial_trains_to_the_end_is_there_for_one_that_waited(tmp_path: Path) -> None:
    """Candidates that differ in pruning alone share a student: what one of them goes on with, no other is stopped in."""
    text = TEXT.replace("[search]", PRUNING).replace("{ low = 0.25, high = 4.0, step = 0.05 }", "[0.5, 1.0]")
    bench = Bench(tmp_path, text)
    pool = bench.pool()
    bench.run(9, pool)
    keys = {t.user_attrs["rungs"]["student"] for t in bench.trials(TrialState.COMPLETE)}
    assert pool.jobs["student"] == len(keys)
    assert not {t.user_attrs["stopped"]["student"] for t in bench.trials(TrialState.PRUNED)} & keys


def test_a_failing_rung_fails_all_trials_of_its_student(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    failed: list[str] = []

    class Fails(CurvePool):
        def _end(self, stage: Any) -> JobResult:
            if stage.kind == "rung" and len(failed) < 2 and stage.key not in failed:
                failed.append(stage.key)
                return JobResult(stage.key, "refused", 0.1, "no luck")
            return super()._end(stage)

    summary = bench.run(10, Fails(bench.home.store, bench.estimator.estimate))
    assert (summary.failed, len(failed)) == (2, 2)
    assert summary.finished + summary.stopped == 8


def test_the_sampler_learns_of_stopped_trials_by_what_is_expected_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    engine = bench.engine(bench.pool())
    engine.run(30)
    mirror = engine._intake._asking._proposer._mirror
    mirrored = {number: mirror._storage.get_trial(known) for number, known in mirror._known.items()}
    again = {t.user_attrs.get("again") for t in bench.trials()}
    stopped = [t for t in bench.trials(TrialState.PRUNED) if t.number not in again]
    assert stopped
    for trial in stopped:
        told = mirrored[trial.number]
        assert (told.state, told.values) == (TrialState.COMPLETE, trial.user_attrs["stopped"]["values"])
        assert told.values[0] == pytest.approx(trial.user_attrs["stopped"]["middle"], abs=1e-4)
    for trial in bench.trials(TrialState.COMPLETE):  # those that waited, too
        assert mirrored[trial.number].values == trial.values


def test_more_trials_go_on_from_what_was_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(15)
    before = bench.results()
    summary = bench.run(30)
    assert bench.results()[:15] == before
    assert summary.finished + summary.stopped == 15
    assert summary.stopped > 0


def test_what_was_stopped_is_taken_up_again_where_more_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, doubted = Bench(tmp_path), list[int]()

    def hopeless(self: Rungs, numbers: Iterable[int], *, spare: bool = False) -> list[int]:
        """Trial 2 seems to be, the first time."""
        found = [number for number in numbers if number == 2 and number not in doubted]
        doubted.extend(found)
        return found

    monkeypatch.setattr(Rungs, "hopeless", hopeless)
    pool = bench.pool()
    bench.run(8, pool)
    (stopped,) = bench.trials(TrialState.PRUNED)
    (again,) = [t for t in bench.trials() if "again" in t.user_attrs]
    assert (stopped.number, again.user_attrs["again"], again.state) == (2, 2, TrialState.COMPLETE)
    assert again.user_attrs["candidate"] == stopped.user_attrs["candidate"]
    assert again.params == stopped.params
    assert len(bench.trials()) == 8
    assert len(pool.kinds) == len(set(pool.kinds))  # it goes on from the rung that it had


def test_what_was_stopped_is_taken_up_again_where_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial 1 is stopped, trial 0 waits until all of the space was tried; what then comes of it gives trial 1 hope."""
    text = TEXT.replace("high = 4.0", "high = 0.6").partition("[[candidates]]")[0]
    bench, done, waited = Bench(tmp_path, text), list[int](), list[int]()

    def verdict(self: Rungs, number: int) -> str:
        if number == 1 and 0 not in done:
            return "stop"
        if number == 0 and not waited:
            waited.append(number)
            return "pause"
        return "go"

    def finished(self: Rungs, number: int, figures: Any, *, feasible: bool) -> None:
        done.append(number)

    monkeypatch.setattr(Rungs, "hopeless", lambda self, numbers, spare=False: [n for n in numbers if n == 1 and 0 not in done])
    monkeypatch.setattr(Rungs, "next", lambda self, paused, *, last: 0 if last else None)
    monkeypatch.setattr(Rungs, "verdict", verdict)
    monkeypatch.setattr(Rungs, "finished", finished)
    summary = bench.run(20)
    *others, again = bench.trials()
    assert (again.user_attrs["again"], again.state) == (1, TrialState.COMPLETE)
    assert len(others) >= 3
    assert not any("again" in trial.user_attrs for trial in others)
    assert (summary.finished, summary.stopped, summary.exhausted) == (len(others), 1, True)
    assert sum("no more candidates" in note for note in bench.progress.notes) == 1
