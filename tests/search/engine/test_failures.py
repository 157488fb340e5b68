"""Workers that die, stages that fail and a store that is damaged: what is tried again, and what stops a study."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from _bench import TEXT, Bench, Spy
from optuna.trial import TrialState

from edgesearch.errors import GraphError, StudyError
from edgesearch.objectives import Estimator, Store
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.spaces import Candidate


def test_a_worker_that_dies_is_replaced_and_the_trial_does_not_notice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    summary = bench.run(
        2, Spy(lambda count, job: JobResult(job.key, "lost", 0.0, "the worker died") if count in (1, 3) else None)
    )
    assert (summary.finished, summary.failed) == (2, 0)
    assert sum("trying again" in note for note in bench.progress.notes) == 2


def test_a_stage_that_kills_every_worker_fails_its_trial_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    doomed: set[str] = set()

    def event(count: int, job: Job) -> JobResult | None:
        if count == 1:
            doomed.add(job.key)
        return JobResult(job.key, "lost", 0.0, "the worker died") if job.key in doomed else None

    summary = bench.run(3, Spy(event))
    assert (summary.finished, summary.failed) == (2, 1)
    failed = [t for t in bench.study().get_trials() if t.state == TrialState.FAIL]
    assert "the worker died" in failed[0].user_attrs["failure"]


def test_failed_candidates_are_tried_again_when_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    refuse = Spy(lambda count, job: JobResult(job.key, "refused", 0.0, "no luck") if count == 1 else None)
    bench.run(2, refuse)
    failed = next(t for t in bench.study().get_trials() if t.state == TrialState.FAIL)
    bench.run(3, retry_failed=True)
    last = bench.study().get_trials()[-1]
    assert last.user_attrs["candidate_key"] == failed.user_attrs["candidate_key"]
    assert last.state == TrialState.COMPLETE


def test_failed_candidates_that_are_refused_by_now_make_no_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    bench.run(2, Spy(lambda count, job: JobResult(job.key, "refused", 0.0, "no luck") if count == 1 else None))
    failed = {t.user_attrs["candidate_key"] for t in bench.study().get_trials() if t.state == TrialState.FAIL}
    assert len(failed) == 1
    estimate = Estimator.estimate

    def refuses(self: Estimator, candidate: Candidate) -> dict[str, float]:
        if candidate.key in failed:
            raise GraphError("it does not fit any more")
        return estimate(self, candidate)

    monkeypatch.setattr(Estimator, "estimate", refuses)
    summary = bench.run(2, retry_failed=True)
    assert (summary.finished, summary.failed, summary.rejected) == (0, 0, 1)
    assert len(bench.study().get_trials()) == 2


def test_what_is_tried_again_has_the_parameters_that_it_was_drawn_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(
        2, Spy(lambda count, job: JobResult(job.key, "refused", 0.0, "no luck") if job.stage["kind"] == "quantized" else None)
    )
    failed = {t.user_attrs["candidate_key"]: t for t in bench.study().get_trials() if t.state == TrialState.FAIL}
    assert any(trial.params for trial in failed.values())
    bench.run(2 + len(failed), retry_failed=True)
    for trial in bench.study().get_trials()[2:]:
        before = failed[trial.user_attrs["candidate_key"]]
        assert (trial.params, trial.distributions) == (before.params, before.distributions)


def test_a_study_in_which_everything_fails_stops_with_the_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT.replace("width = [0.5, 1.0]", "width = { low = 0.5, high = 4.0 }"))
    with pytest.raises(StudyError, match="no luck"):
        bench.run(50, Spy(lambda _, job: JobResult(job.key, "refused", 0.0, "no luck")))


def test_a_study_that_has_results_outlives_many_failures_and_tries_them_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TEXT.replace("width = [0.5, 1.0]", "width = [0.25, 0.5, 0.75, 1.0]"))
    bench.run(1)

    def refuse(count: int, job: Job) -> JobResult:
        return JobResult(job.key, "refused", 0.0, "no luck")

    assert bench.run(11, Spy(refuse)).failed == 10
    assert bench.run(21, Spy(refuse), retry_failed=True).failed == 10
    states = [trial.state for trial in bench.study().get_trials()]
    assert states == [TrialState.COMPLETE] + [TrialState.FAIL] * 20


def test_a_damaged_store_entry_is_made_again_and_said_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    before = bench.results()
    for file in (tmp_path / "store" / "artifacts").rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    shutil.copytree(tmp_path / "store", tmp_path / "again" / "store")
    again = Bench(tmp_path / "again")
    again.run(2)
    assert again.results() == before
    assert any("damaged" in note for note in again.progress.notes)


def test_a_pool_that_goes_down_is_nobodys_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    down = Spy(lambda count, job: JobResult(job.key, "interrupted", 0.0, "Ray went down") if count <= 10 else None)
    summary = bench.run(2, down)
    assert (summary.finished, summary.failed) == (2, 0)


def test_a_worker_that_says_done_without_an_artifact_fails_the_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    liar = Spy(lambda count, job: JobResult(job.key, "done", 0.1) if count <= 3 else None)
    summary = bench.run(2, liar)
    assert (summary.finished, summary.failed) == (1, 1)
    assert "not in the store" in str(bench.progress.ended[0][1])


def test_a_full_disk_stops_the_study_and_no_trial_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    full = Spy(lambda count, job: JobResult(job.key, "blocked", 0.1, "No space left on device") if count == 3 else None)
    with pytest.raises(StudyError, match=r"No space left.*same command again"):
        bench.run(2, full)
    summary = bench.run(2)
    assert summary.failed == 0
    assert len(bench.results()) == 2


def test_retrying_forgets_the_failures_that_are_recorded_below_a_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    store = Store(bench.home.store)

    def refuse(count: int, job: Job) -> JobResult | None:
        if count > 1:
            return None
        store.record_failure(job.stage["kind"], job.key, message="no luck", made_by={"versions": {}})
        return JobResult(job.key, "refused", 0.0, "no luck")

    bench.run(1, Spy(refuse))
    failures = list((bench.home.store / "failures").rglob("*.json"))
    assert len(failures) == 1
    summary = bench.run(2, retry_failed=True)
    assert (summary.finished, failures[0].exists()) == (1, False)
