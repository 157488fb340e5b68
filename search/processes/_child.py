"""Jobs in one process of ours, one after the other, where Ray is not wanted.

The process lives as long as it can: when a stage kills it, the stage is lost and the next one gets a new process.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, replace

from edgesearch.errors import StudyError
from edgesearch.search.processes._children import JobProcess
from edgesearch.search.processes._fork_server import ForkServer
from edgesearch.search.processes._heartbeats import HANG_S, Heartbeats, hung
from edgesearch.search.processes._jobs import Job, JobResult

#: So often in a row no process begins a stage until the study stops, with so many seconds in between.
_PATIENCE, _PAUSE_S = 5, 1.0


class ChildPool:
    """Runs jobs in a child process, in the order in which they were given. `hang_s`: a job that is silent for longer hangs.

    `server`: what the process is forked from; None: a fork server of its own.
    """

    slots = 1
    waits_for_boards = True

    def __init__(self, *, hang_s: float = HANG_S, server: ForkServer | None = None) -> None:
        self._beats = Heartbeats(hang_s)
        self._jobs: deque[Job] = deque()  # the first is the one that runs
        self._worker = JobProcess(server)
        self._fruitless = 0  # attempts in a row for which there was no process

    def submit(self, job: Job) -> None:
        """Take a job; it starts at once when no other runs."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._start(job)

    def wait(self, timeout: float) -> list[JobResult]:
        """The job that ended, if one does within `timeout` seconds."""
        if not self._jobs:
            time.sleep(timeout)
            return []
        result = self._read(timeout) or self._hung()
        if result is None:
            return []
        self._beats.end(self._jobs.popleft().key)
        if self._jobs:
            self._start(self._jobs[0])
        return [result]

    def cancel(self, key: str) -> bool:
        """Kill the process where it runs this job; whether it does."""
        runs = bool(self._jobs) and self._jobs[0].key == key and self._worker.process.runs
        if runs:
            self._worker.process.kill()
        return runs

    def close(self) -> None:
        """Stop the process, dropping what still runs; checkpoints stay."""
        self._jobs.clear()
        self._worker.process.close()

    def _hung(self) -> JobResult | None:
        if not self._worker.process.runs or not self._beats.silent():
            return None
        self._worker.process.end()
        return JobResult(self._jobs[0].key, "hung", 0.0, hung(self._beats.limit_s))

    def _start(self, job: Job) -> None:
        self._beats.begin(job.key, job.log, at_once=True)
        self._worker.begin(asdict(job))

    def _read(self, timeout: float) -> JobResult | None:
        answer = self._worker.result(asdict(self._jobs[0]), timeout)
        if answer is None:
            return None
        result = JobResult(**answer)
        if result.outcome != "interrupted":
            self._fruitless = 0
            return result
        if self._beats.has_begun(result.key):
            # Nothing is started again here but the process: a stage that ends it again and again, however, has itself to blame.
            return replace(result, outcome="lost")
        self._fruitless += 1
        if self._fruitless > _PATIENCE:
            raise StudyError(
                f"no process for stages starts on this machine ({result.message}); look at its memory and its limit of "
                "processes; the same command goes on from here"
            )
        time.sleep(_PAUSE_S)
        return result
