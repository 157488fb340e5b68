from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgesearch.objectives import Stage, Store, resources_of
from edgesearch.objectives.stages.kinds._measured import SPEC, MeasuredSettings
from edgesearch.search.engine import StageRunner
from edgesearch.search.engine._jobs import Job, JobResult
from edgesearch.search.study import StudyFile


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


def test_a_board_has_one_measurement_at_a_time(runner: StageRunner, worker: Worker) -> None:
    first, second = (measured(i, resource="board:mine") for i in (0, 1))
    other = measured(2, resource="board:other")
    assert started(runner, [first, second, other]) == [True, False, True]
    worker.ended.append(JobResult(first.key, "refused", 0.0, "it broke"))
    runner.collect(timeout=0.0)
    assert started(runner, [second]) == [True]


@pytest.mark.parametrize(("resource", "count"), [("", 3), ("board:mine", 1)])
def test_what_needs_nothing_alone_fills_the_workers(runner: StageRunner, resource: str, count: int) -> None:
    stages = [measured(i, resource=resource) for i in range(5)]
    assert sum(started(runner, stages)) == count
    assert started(runner, stages[:1]) == [False]  # it is under way


def test_stages_say_what_they_need() -> None:
    needs: Mapping[str, float] = resources_of(measured(0, resource="board:mine"))
    assert needs == {"board:mine": 1.0}
    assert resources_of(measured(0, resource="")) == {}
