"""A small study in a folder that fake boards score, run by engines of the test's own, and a pool that a test speaks through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from _inline import InlinePool
from optuna.trial import FrozenTrial

from edgesearch.board_eval import find_board, find_pool
from edgesearch.objectives import Conditions, Estimator, Store, load_data
from edgesearch.search.crew._allocation import BoardRules
from edgesearch.search.crew._crew import BoardCrew
from edgesearch.search.crew._look import look_at
from edgesearch.search.engine._engine import Engine
from edgesearch.search.engine._summary import Summary
from edgesearch.search.processes._jobs import Job, JobResult
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
