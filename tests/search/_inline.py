"""A pool that runs jobs in the test's own process, so that a test sees, and may stop, every step."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict

from edgesearch.search.processes._jobs import Job, JobResult, run_job


class InlinePool:
    """Runs each job in this process, when it is waited for."""

    waits_for_boards = True

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, timeout: float) -> list[JobResult]:
        if not self._jobs:
            time.sleep(timeout)
            return []
        return [JobResult(**run_job(asdict(self._jobs.popleft())))]

    def cancel(self, key: str) -> bool:
        return False

    def close(self) -> None:
        self._jobs.clear()
