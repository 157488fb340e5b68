"""A small study in a folder, run by engines of the test's own, and pools that a test speaks through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from _inline import InlinePool

from edgesearch.board_eval import find_board
from edgesearch.objectives import Conditions, Estimator, Store, load_data
from edgesearch.search.engine._engine import Engine
from edgesearch.search.engine._summary import Summary
from edgesearch.search.engine._workers import Pool
from edgesearch.search.foresight._foresight import ForesightProcess
from edgesearch.search.processes._jobs import Job, JobResult
from edgesearch.search.study._file import StudyFile, parse_study
from edgesearch.search.study._home import Home
from edgesearch.search.study._storage import create_or_resume, open_storage
from edgesearch.spaces import Candidate

TEXT = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 1
[finetune]
epochs = 1
[prune]
draws = 2
score_images = 50
recalibration_images = 50
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
pruning = ["none", "one_step"]
ratio = [0.5]
granularity = [8]
"""


class Quiet:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ended: list[tuple[int, str | None]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, done: int, wanted: int, running: Mapping[int, str]) -> None:
        assert done <= wanted

    def finished(self, number: int, candidate: Candidate, metrics: Mapping[str, Any], failure: str | None) -> None:
        self.ended.append((number, failure))


class Bench:
    """A study in a folder, run by as many engines as a test likes."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.home = Home(folder)
        self.home.prepare()
        self.settings: StudyFile = parse_study(text.encode(), where="t", folder=folder)
        self.progress = Quiet()

    def study(self) -> optuna.Study:
        return create_or_resume(open_storage(self.home.database), self.settings)

    def run(
        self,
        trials: int,
        pool: Pool | None = None,
        *,
        retry_failed: bool = False,
        estimator: Estimator | None = None,
        foresight: ForesightProcess | None = None,
    ) -> Summary:
        data = load_data(self.settings.data)
        board = find_board(self.settings.board)
        engine = Engine(
            study=self.study(),
            settings=self.settings,
            conditions=Conditions.of(data, self.settings.pipeline, board),
            estimator=estimator or Estimator(channels=data.channels, classes=len(data.classes), board=board),
            store=Store(self.home.store, warn=self.progress.note),
            pool=pool or InlinePool(),
            progress=self.progress,
            logs=self.home.logs(self.settings.name),
            folder=self.settings.folder,
            foresight=foresight,
            retry_failed=retry_failed,
        )
        return engine.run(trials)

    def results(self) -> list[tuple[str, tuple[float, ...] | None]]:
        return [(t.user_attrs["candidate_key"], tuple(t.values) if t.values else None) for t in self.study().get_trials()]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Spy(InlinePool):
    """An inline pool that calls `event` with the number of the job before running it."""

    def __init__(self, event: Callable[[int, Job], JobResult | None]) -> None:
        super().__init__()
        self.event, self.count = event, 0

    def wait(self, timeout: float) -> list[JobResult]:
        if not self._jobs:
            return []
        self.count += 1
        result = self.event(self.count, self._jobs[0])
        if result is not None:
            self._jobs.popleft()
            return [result]
        return super().wait(timeout)


class Deaf(InlinePool):
    """Takes jobs, runs none, and kills the driver when it waits for one with nothing else to do."""

    def wait(self, timeout: float) -> list[JobResult]:
        if timeout:
            raise Killed
        return []
