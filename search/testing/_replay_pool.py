"""Workers in simulated time: a stage takes the seconds that were recorded of it, and the clock goes to the next end at once."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgesearch.objectives import Stage
from edgesearch.search.processes import Job, JobResult
from edgesearch.search.study import Constraints
from edgesearch.testing._replay_store import MemoryStore
from edgesearch.testing._table import Recorded, Table, what_is

__all__ = ["ReplayPool"]

#: Kinds of stages that are parts of one training.
_TRAINING = ("rung", "student")


@dataclass(order=True)
class _Running:
    """A job under way, by the time of its end and then by its place in line."""

    ends: float
    place: int
    stage: Stage = field(compare=False)
    begun: float = field(compare=False)
    broken: Mapping[str, Any] = field(compare=False)  # metrics of a network that breaks a limit


class ReplayPool:
    """A `Pool` of `workers` that makes artifacts in `store` out of what `table` tells.

    `now` is the simulated time in seconds. It stands still while the engine proposes, and goes to the next end of a job when
    the engine waits: a proposal takes no time. A training goes on from the rung that its student has reached; one that starts
    while another worker trains the same student waits for that, and takes its worker's place meanwhile.
    """

    waits_for_boards = True

    def __init__(self, table: Table, store: MemoryStore, *, workers: int = 1) -> None:
        self.slots, self.now = workers, 0.0
        self._table, self._store = table, store
        self._running: list[_Running] = []
        self._stopped: list[JobResult] = []
        self._submitted = 0
        self._ended_seconds = 0.0  # of jobs that ended
        self._epochs: dict[str, int] = {}  # student -> epochs of its training that are done

    @property
    def worker_seconds(self) -> float:
        """Seconds for which workers have worked until now, in sum."""
        return self._ended_seconds + sum(self.now - job.begun for job in self._running)

    def submit(self, job: Job) -> None:
        """Begin a job now. Raises LookupError for a stage that is not in the table, RuntimeError where no worker is free."""
        if len(self._running) == self.slots:
            raise RuntimeError(f"a job was given to a pool whose {self.slots} workers are all busy")
        stage = Stage.from_json(job.stage)
        broken = self._broken(stage, job.limits) if stage.kind == "pruned" and job.limits else {}
        ends = self.now + self._table.find(what_is(stage)).chosen_seconds if broken else self._end_of(stage)
        heapq.heappush(self._running, _Running(ends, self._submitted, stage, self.now, broken))
        self._submitted += 1

    def wait(self, timeout: float) -> list[JobResult]:
        """The jobs that have ended by now; if `timeout` is more than 0, and none has, those that end next."""
        ended, self._stopped = self._stopped, []
        if self._running and timeout > 0 and not ended:
            self.now = max(self.now, self._running[0].ends)
        while self._running and self._running[0].ends <= self.now:
            ended.append(self._end(heapq.heappop(self._running)))
        return ended

    def cancel(self, key: str) -> bool:
        """Stop the job of the stage with this key, if it runs; it is told as lost, and what it did is lost."""
        for job in self._running:
            if job.stage.key == key:
                self._running.remove(job)
                heapq.heapify(self._running)
                self._ended_seconds += self.now - job.begun
                self._stopped.append(JobResult(key, "lost", self.now - job.begun, "it was stopped"))
                return True
        return False

    def close(self) -> None:
        """Drop what still runs."""
        self._running.clear()

    def _broken(self, stage: Stage, limits: Mapping[str, Any]) -> Mapping[str, Any]:
        figures = self._table.limited(stage)
        return figures if Constraints.model_validate(limits["values"]).violations(figures) else {}

    def _end_of(self, stage: Stage) -> float:
        if stage.kind not in _TRAINING:
            return self.now + self._table.find(what_is(stage)).seconds
        student = what_is(stage, "student")
        entry, begin, done = self._table.find(student), self.now, self._epochs.get(student, 0)
        for other in self._running:
            if other.stage.kind in _TRAINING and what_is(other.stage, "student") == student:
                begin, done = max(begin, other.ends), max(done, _epochs(other.stage, entry))
        return begin + training_seconds(entry, done, _epochs(stage, entry))

    def _end(self, job: _Running) -> JobResult:
        stage, seconds = job.stage, job.ends - job.begun
        self._ended_seconds += seconds
        if job.broken:
            return JobResult(stage.key, "infeasible", seconds, "its network breaks a limit", figures=dict(job.broken))
        training = stage.kind in _TRAINING
        entry = self._table.find(what_is(stage, "student" if training else ""))
        if entry.failure:
            return JobResult(stage.key, "refused", seconds, entry.failure)
        figures = entry.figures
        if training:
            done = _epochs(stage, entry)
            self._epochs[entry.name] = max(done, self._epochs.get(entry.name, 0))
            if stage.kind == "rung":
                figures = {"accuracy": entry.epochs[done - 1].accuracy, "loss": entry.epochs[done - 1].loss, "epochs": done}
        self._store.put(stage.kind, stage.key, figures=figures, seconds=seconds, recipe=stage.recipe())
        return JobResult(stage.key, "done", seconds)


def _epochs(stage: Stage, student: Recorded) -> int:
    """How many epochs are done at the end of a rung or a training."""
    return int(stage.parameters["epochs"]) if stage.kind == "rung" else len(student.epochs)


def training_seconds(student: Recorded, done: int, until: int) -> float:
    """Seconds of a training that goes on after `done` epochs and ends after `until`: its start, its epochs, a validation."""
    if done == 0 and until >= len(student.epochs):
        return student.seconds
    return student.overhead + sum(epoch.seconds for epoch in student.epochs[done:until])
