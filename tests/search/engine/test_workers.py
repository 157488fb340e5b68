"""Ray's pool with real workers, one of which is killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from edgesearch.objectives import Conditions, DataSettings, Pipeline, Stage, Store, load_data, plan
from edgesearch.search.engine._child import ChildPool
from edgesearch.search.engine._jobs import Job, JobResult, run_job
from edgesearch.search.engine._ray import RayPool
from edgesearch.search.engine._workers import Pool
from edgesearch.spaces import Candidate, Student

DATA = DataSettings(name="digits", train_images=100, validation_images=50, calibration_images=20)


def job(folder: Path, *, epochs: int = 1, width: float = 0.5) -> Job:
    pipeline = Pipeline.model_validate({"data": DATA.model_dump(), "train": {"epochs": epochs}})
    candidate = Candidate(student=Student(architecture="cnn_tiny", width=width, input_size=8))
    last = plan(candidate, pipeline, Conditions(load_data(DATA).fingerprints))
    student = next(stage for stage in last.walk() if stage.kind == "student")
    return Job(
        stage=student.to_json(),
        data=DATA.model_dump(mode="json"),
        store=str(folder / "store"),
        log=str(folder / "logs" / "student.log"),
    )


def finish(pool: Pool, seconds: float = 120.0) -> JobResult:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for result in pool.wait(timeout=1.0):
            return result
    raise AssertionError("the job did not end")


def test_a_childs_job_leaves_an_artifact_and_a_log(tmp_path: Path) -> None:
    pool = ChildPool()
    task = job(tmp_path)
    pool.submit(task)
    result = finish(pool)
    pool.close()
    assert (result.outcome, result.key) == ("done", task.key)
    assert Store(tmp_path / "store").has("student", task.key)
    assert "epoch 1/1" in Path(task.log).read_text()


def test_an_unknown_data_set_is_refused_in_one_sentence(tmp_path: Path) -> None:
    task = job(tmp_path)
    missing = {**task.data, "name": "npz", "root": str(tmp_path / "missing.npz")}
    answer = run_job({**task.__dict__, "data": missing})
    assert answer["outcome"] == "refused"
    assert "missing.npz" in answer["message"]


def test_a_stage_on_other_images_is_refused(tmp_path: Path) -> None:
    task = job(tmp_path)
    stage = Stage.from_json({**task.stage, "data": {"train": "0" * 64}})
    answer = run_job({**task.__dict__, "stage": stage.to_json()})
    assert answer["outcome"] == "refused"
    assert "changed" in answer["message"]


@pytest.mark.slow
def test_a_killed_worker_is_reported_as_lost_and_the_pool_goes_on(tmp_path: Path) -> None:
    pool = RayPool(1)
    before = signal.getsignal(signal.SIGTERM)
    try:
        long = job(tmp_path, epochs=2000)
        pool.submit(long)
        deadline = time.monotonic() + 120
        while not Path(long.log).exists() or "epoch 1/" not in Path(long.log).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [p for p in psutil.Process().children(recursive=True) if "ray::run_job" in " ".join(p.cmdline())]
        assert len(workers) == 1
        workers[0].kill()
        assert finish(pool).outcome == "lost"
        short = job(tmp_path, width=1.0)
        pool.submit(short)
        assert finish(pool).outcome == "done"
    finally:
        pool.close()
    assert signal.getsignal(signal.SIGTERM) == before
