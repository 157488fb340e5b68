from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgesearch.board_eval import BoardReference
from edgesearch.errors import StudyError
from edgesearch.objectives import Conditions, Pipeline, Stage, Store, resources_of, rungs_of
from edgesearch.objectives.stages.kinds._measured import SPEC, MeasuredSettings
from edgesearch.search.crew import BoardCrew, BoardRules
from edgesearch.search.engine import StageRunner
from edgesearch.search.engine._plans import Plans
from edgesearch.search.engine._stages import StageEnd
from edgesearch.search.processes._jobs import NO_MEMORY, Job, JobResult
from edgesearch.search.study import StudyFile
from edgesearch.spaces import Candidate, Student

PARTS = dict.fromkeys(("meta", "train", "validation", "calibration"), "0")
CANDIDATE = Candidate(student=Student(architecture="cnn_tiny", input_size=8))


class Worker:
    """A pool that does nothing until it is told that a job ended."""

    waits_for_boards = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cancelled: list[str] = []
        self.jobs: list[Job] = []
        self.ended: list[JobResult] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self, timeout: float) -> list[JobResult]:
        ended, self.ended = self.ended, []
        return ended

    def cancel(self, key: str) -> bool:
        self.cancelled.append(key)
        return any(job.key == key for job in self.jobs)

    def close(self) -> None:
        pass


def measured(network: int, *, resource: str) -> Stage:
    settings = MeasuredSettings(board={"name": "mine", "network": network}, import_path="boards:Mine", resource=resource)
    return Stage(kind="measured", version=SPEC.version, parameters=settings.model_dump(mode="json"), data={})


@pytest.fixture
def worker() -> Worker:
    return Worker(slots=3)


@pytest.fixture
def runner(worker: Worker, tmp_path: Path) -> StageRunner:
    data: Any = StudyFile.load("quickstart").data
    return StageRunner(store=Store(tmp_path / "store"), pool=worker, data=data, logs=tmp_path, note=print)


def started(runner: StageRunner, stages: list[Stage]) -> list[bool]:
    out = []
    for stage in stages:
        out.append(runner.can_start(stage))
        if out[-1]:
            runner.start(stage)
    return out


def test_a_rung_does_not_begin_beside_the_whole_training(runner: StageRunner) -> None:
    conditions = Conditions(PARTS)
    student = next(s for s in Plans(Pipeline(), conditions).stages(CANDIDATE) if s.kind == "student")
    rung = rungs_of(student)[0]
    assert runner.can_start(rung)
    runner.start(student)
    assert not runner.can_start(rung)


def test_a_board_has_one_measurement_at_a_time(runner: StageRunner, worker: Worker) -> None:
    first, second = (measured(i, resource="board:mine") for i in (0, 1))
    other = measured(2, resource="board:other")
    assert started(runner, [first, second, other]) == [True, False, True]
    worker.ended.append(JobResult(first.key, "refused", 0.0, "it broke"))
    runner.collect(timeout=0.0)
    assert started(runner, [second]) == [True]


def test_a_rung_of_a_student_that_another_study_trained_meanwhile_ends_without_an_artifact(
    runner: StageRunner, worker: Worker, tmp_path: Path
) -> None:
    student = next(stage for stage in Plans(Pipeline(), Conditions(PARTS)).stages(CANDIDATE) if stage.kind == "student")
    first, second = rungs_of(student)[:2]
    assert started(runner, [first, second]) == [True, True]
    assert runner.artifact(student) is None  # looked for a moment ago
    worker.ended.append(JobResult(first.key, "done", 0.0))
    assert runner.collect(timeout=0.0) == []  # a worker that sees another store
    Store(tmp_path / "store").put("student", student.key, figures={"accuracy": 0.5}, seconds=1.0, recipe={})
    worker.ended.append(JobResult(second.key, "done", 2.0))
    assert runner.collect(timeout=0.0) == [StageEnd(second, 0.0)]  # it merely waited
    assert runner.artifact(student) is not None


@pytest.mark.parametrize(("resource", "count"), [("", 3), ("board:mine", 1)])
def test_what_needs_nothing_alone_fills_the_workers(runner: StageRunner, resource: str, count: int) -> None:
    stages = [measured(i, resource=resource) for i in range(5)]
    assert sum(started(runner, stages)) == count
    assert started(runner, stages[:1]) == [False]  # it is under way


def test_stages_say_what_they_need() -> None:
    needs: Mapping[str, float] = resources_of(measured(0, resource="board:mine"))
    assert needs == {"board:mine": 1.0}
    assert resources_of(measured(0, resource="")) == {}


def test_a_stage_that_hangs_is_tried_again_with_a_log_of_its_own(
    runner: StageRunner, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = measured(0, resource="")
    logs = []
    for attempt in range(3):
        assert started(runner, [stage]) == [True]
        logs.append(worker.jobs[-1].log)
        worker.ended.append(JobResult(stage.key, "hung", 0.0, "the worker gave no sign of life for 15 min and was stopped"))
        ends = runner.collect(timeout=0.0)
        assert len(ends) == (attempt == 2)
    assert len(set(logs)) == 3
    assert ends[0].failure is not None
    assert "no sign of life for 15 min and was stopped (3 times)" in ends[0].failure
    assert capsys.readouterr().out.count("; trying again") == 2


def test_a_stage_that_memory_does_not_suffice_for_is_tried_again_with_half_a_batch_at_a_time(
    runner: StageRunner, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = measured(0, resource="")
    for attempt in range(3):
        assert started(runner, [stage]) == [True]
        worker.ended.append(JobResult(stage.key, "out_of_memory", 0.0, NO_MEMORY))
        ends = runner.collect(timeout=0.0)
        assert len(ends) == (attempt == 2)
    assert [job.pieces for job in worker.jobs] == [1, 2, 4]
    assert ends[0].failure is not None
    assert "the machine ran out of memory (a smaller number of --workers needs less) (3 times)" in ends[0].failure
    said = capsys.readouterr().out
    assert "trying again, with batches in 2 pieces if it trains" in said
    assert "trying again, with batches in 4 pieces if it trains" in said


def test_every_attempt_has_a_log_of_its_own_whatever_ended_the_one_before(
    runner: StageRunner, worker: Worker, tmp_path: Path
) -> None:
    stage = measured(0, resource="")
    data: Any = StudyFile.load("quickstart").data
    logs = []
    for driver in (runner, StageRunner(store=Store(tmp_path / "store"), pool=worker, data=data, logs=tmp_path, note=print)):
        for _ in range(2):  # a lost node and a pool that begins anew are no deaths of the stage
            assert started(driver, [stage]) == [True]
            logs.append(worker.jobs[-1].log)
            Path(logs[-1]).write_text("epoch 1/5")
            worker.ended.append(JobResult(stage.key, "interrupted", 0.0, "Ray went down with its worker"))
            assert driver.collect(timeout=0.0) == []
    name = f"measured-{stage.key[:16]}"
    assert [Path(log).name for log in logs] == [f"{name}{retry}.log" for retry in ("", "-retry1", "-retry2", "-retry3")]


def test_what_is_to_be_known_of_a_stage_that_is_done_is_told(
    runner: StageRunner, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = measured(0, resource="")
    assert started(runner, [stage]) == [True]
    Store(tmp_path / "store").put(stage.kind, stage.key, figures={}, seconds=1.0, recipe=stage.recipe())
    worker.ended.append(JobResult(stage.key, "done", 1.0, "its batches were computed in two halves each"))
    assert [end.failure for end in runner.collect(timeout=0.0)] == [None]
    assert f"stage measured {stage.key[:12]}: its batches were computed in two halves each" in capsys.readouterr().out


@pytest.fixture
def silent(worker: Worker, tmp_path: Path) -> StageRunner:
    """Its one board lost the stage `ON_BOARD`, and does not answer."""

    def look(board: BoardReference, remedy: str) -> None:
        raise OSError("it is gone")

    rules = BoardRules(check_s=0.01, longest_check_s=0.01, wait_s=2.0)
    crew = BoardCrew([BoardReference("lab")], look=look, note=print, rules=rules)
    data: Any = StudyFile.load("quickstart").data
    runner = StageRunner(store=Store(tmp_path / "store"), pool=worker, data=data, logs=tmp_path, note=print, boards=crew)
    assert started(runner, [ON_BOARD]) == [True]
    worker.ended.append(JobResult(ON_BOARD.key, "board_lost", 0.0, "it does not answer"))
    return runner


ON_BOARD = Stage(kind="on_board", version=1, parameters={"pool": {}, "images": 1}, data={})


def turn(runner: StageRunner, seconds: float) -> None:
    """Turns of the engine's loop, which would start `ON_BOARD`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        runner.collect(timeout=0.0)
        assert started(runner, [ON_BOARD]) == [False]
        time.sleep(0.01)


def test_where_boards_take_a_workers_place_no_measurement_waits_in_line_on_a_boards_time(tmp_path: Path) -> None:
    pool = Worker(slots=1)
    pool.waits_for_boards = True
    crew = BoardCrew([BoardReference("lab")], look=lambda board, remedy: None, note=print)
    data: Any = StudyFile.load("quickstart").data
    runner = StageRunner(store=Store(tmp_path / "store"), pool=pool, data=data, logs=tmp_path, note=print, boards=crew)
    other = measured(0, resource="")
    assert started(runner, [other, ON_BOARD]) == [True, False]
    pool.ended.append(JobResult(other.key, "refused", 0.0, "it broke"))
    runner.collect(timeout=0.0)
    assert started(runner, [ON_BOARD]) == [True]


def test_the_wait_for_a_board_begins_when_nothing_else_runs(silent: StageRunner, worker: Worker) -> None:
    other = measured(0, resource="")
    assert started(silent, [other]) == [True]
    turn(silent, 2.5)  # longer than the wait, but a worker had something to do
    worker.ended.append(JobResult(other.key, "refused", 0.0, "it broke"))
    turn(silent, 0.5)
    with pytest.raises(StudyError, match="no board came back"):
        turn(silent, 5.0)


def test_a_turn_without_work_waits_in_the_pool_alone(silent: StageRunner) -> None:
    silent.collect(timeout=0.0)
    start = time.monotonic()
    silent.collect(timeout=5.0)  # the pool of these tests answers at once
    assert time.monotonic() - start < 4.0
