"""Jobs that train small students, short and long ones, and the processes that run them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

from edgesearch.objectives import Conditions, DataSettings, Pipeline, load_data, plan
from edgesearch.search.engine._workers import Pool
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.spaces import Candidate, Student

DATA = DataSettings(name="digits", train_images=100, validation_images=50, calibration_images=20)


def job(folder: Path, *, epochs: int = 1, width: float = 0.5, architecture: str = "cnn_tiny") -> Job:
    pipeline = Pipeline.model_validate({"data": DATA.model_dump(), "train": {"epochs": epochs}})
    candidate = Candidate(student=Student(architecture=architecture, width=width, input_size=8))
    last = plan(candidate, pipeline, Conditions(load_data(DATA).fingerprints))
    student = next(stage for stage in last.walk() if stage.kind == "student")
    return Job(
        stage=student.to_json(),
        data=DATA.model_dump(mode="json"),
        store=str(folder / "store"),
        log=str(folder / "logs" / "student.log"),
        folder=str(folder),
    )


def finish(pool: Pool, seconds: float = 600.0) -> JobResult:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for result in pool.wait(timeout=1.0):
            return result
    raise AssertionError("the job did not end")


def running(pool: Pool, folder: Path) -> Job:
    """A long job that has begun to train."""
    task = job(folder, epochs=5000)
    pool.submit(task)
    deadline = time.monotonic() + 600
    while not Path(task.log).exists() or "epoch 1/" not in Path(task.log).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return task


def family() -> list[psutil.Process]:
    """Every living process below this one."""
    return [child for child in psutil.Process().children(recursive=True) if command(child)]


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def processes(log: str) -> list[int]:
    """Those that attempts at a stage were in, by its log."""
    return [int(found) for found in re.findall(r" in process (\d+)$", Path(log).read_text(), re.MULTILINE)]


def name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def wait_for_ever(pool: Pool, seconds: float) -> None:
    """For what the pool raises."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pool.wait(0.5)
