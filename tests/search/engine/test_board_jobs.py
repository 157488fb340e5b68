"""Jobs on boards in pools with real workers: beside those that compute, and stopped when they hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from _fake_boards import deeds, write_boards
from _inline import InlinePool

from edgesearch.board_eval import find_board, find_pool
from edgesearch.objectives import Conditions, DataSettings, Pipeline, Stage, Store, load_data, plan
from edgesearch.search.cluster._ray import RayPool
from edgesearch.search.engine._workers import Pool
from edgesearch.search.processes._child import ChildPool
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.spaces import Candidate, Student

pytestmark = pytest.mark.slow

DATA = DataSettings(name="digits", train_images=100, validation_images=50, calibration_images=20)


@pytest.fixture
def on_board(tmp_path: Path) -> Job:
    """A measurement by board lab:a whose inputs are in the store."""
    write_boards(tmp_path)
    pipeline = Pipeline.model_validate({"data": DATA.model_dump(), "train": {"epochs": 1}})
    boards = find_pool(["lab:a"], folder=tmp_path)
    conditions = Conditions.of(load_data(DATA), pipeline, find_board("zcu104"), pool=boards, board_images=20)
    candidate = Candidate(student=Student(architecture="cnn_tiny", width=0.5, input_size=8))
    *inputs, last = plan(candidate, pipeline, conditions, last="on_board").walk()
    pool = InlinePool()
    for stage in inputs:
        pool.submit(as_job(stage, tmp_path))
        assert pool.wait(0.0)[0].outcome == "done"
    return as_job(last, tmp_path, board=asdict(boards.members[0]))


def as_job(stage: Stage, folder: Path, **more: object) -> Job:
    log = str(folder / "logs" / f"{stage.kind}.log")
    data, store = DATA.model_dump(mode="json"), str(folder / "store")
    return Job(stage=stage.to_json(), data=data, store=store, log=log, folder=str(folder), **more)  # type: ignore[arg-type]


def long_training(folder: Path) -> Job:
    pipeline = Pipeline.model_validate({"data": DATA.model_dump(), "train": {"epochs": 5000}})
    candidate = Candidate(student=Student(architecture="cnn_tiny", width=1.0, input_size=8))
    last = plan(candidate, pipeline, Conditions(load_data(DATA).fingerprints))
    return as_job(next(stage for stage in last.walk() if stage.kind == "student"), folder)


def finish(pool: Pool, seconds: float = 180.0) -> JobResult:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for result in pool.wait(timeout=1.0):
            return result
    raise AssertionError("the job did not end")


@pytest.fixture(params=["ray", "child"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made: Pool = RayPool(1, boards={"lab:a": 2}) if request.param == "ray" else ChildPool()
    yield made
    made.close()


def test_a_hanging_job_on_a_board_is_stopped_and_the_next_one_runs(pool: Pool, on_board: Job, tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["hang"]})
    assert pool.cancel(on_board.key) is False
    pool.submit(on_board)
    while deeds(tmp_path, "a") != ["run hang"]:
        assert pool.wait(0.1) == []
    assert pool.cancel(on_board.key) is True
    assert finish(pool).outcome == "lost"
    pool.submit(on_board)
    assert finish(pool).outcome == "done"
    artifact = Store(tmp_path / "store").get("on_board", on_board.key)
    assert artifact is not None
    assert (artifact.figures["board"], artifact.figures["board_images"]) == ("lab:a", 20)
    assert artifact.tensors("logits")["logits"].shape == (20, 10)


def test_a_lost_board_is_no_fault_of_the_stage(pool: Pool, on_board: Job, tmp_path: Path) -> None:
    write_boards(tmp_path, a={"run": ["lost", "busy"]})
    for told in (("board_lost", "board 'a' does not answer"), ("board_busy", "board 'a' is busy")):
        pool.submit(on_board)
        result = finish(pool)
        assert (result.outcome, result.message) == told


@pytest.mark.parametrize("offered", [{"lab:a": 2}, {}])
def test_a_job_on_a_board_runs_beside_a_ray_worker_that_computes(
    offered: dict[str, int], on_board: Job, tmp_path: Path
) -> None:
    """Also where no node offers the board: then on the driver's own."""
    pool = RayPool(1, boards=offered)
    try:
        training = long_training(tmp_path)
        pool.submit(training)
        pool.submit(on_board)
        result = finish(pool)
        assert (result.key, result.outcome) == (on_board.key, "done")
        assert pool.cancel(training.key)
    finally:
        pool.close()
