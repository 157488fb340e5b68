"""Where jobs run: Ray tasks, or this process.

Both pools have the same three calls. A Ray task is never retried by Ray (`max_retries=0`): a worker that dies is reported as
"lost", and the engine decides.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections import deque
from dataclasses import asdict
from typing import Any, Protocol

from edgesearch.errors import StudyError
from edgesearch.search.engine._jobs import Job, JobResult, run_job


class Pool(Protocol):
    """Runs jobs."""

    #: How many jobs run side by side.
    slots: int

    def submit(self, job: Job) -> None:
        """Take a job."""

    def wait(self, timeout: float) -> list[JobResult]:
        """The jobs that ended, waiting at most `timeout` seconds for the first of them."""

    def close(self) -> None:
        """Stop, dropping what still runs."""


class InlinePool:
    """Runs each job in this process, when it is waited for."""

    slots = 1

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs.append(job)

    def wait(self, timeout: float) -> list[JobResult]:
        """Run the next job."""
        return [JobResult(**run_job(asdict(self._jobs.popleft())))] if self._jobs else []

    def close(self) -> None:
        """Drop the jobs that have not run."""
        self._jobs.clear()


class RayPool:
    """Runs each job as a Ray task, in a local instance or on the cluster at `address`."""

    def __init__(self, workers: int, *, address: str | None = None, gpus_per_job: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nobody but this process talks to a local instance
        import ray

        self._ray: Any = ray
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"--ray-address {address}" if address else "a local Ray"
            raise StudyError(
                f"{where} does not start: {str(error).splitlines()[0]}; try --workers 0 to run without Ray"
            ) from error
        signal.signal(signal.SIGTERM, on_terminate)  # Ray puts one in its place that ends this process
        self.slots = workers
        remote: Any = ray.remote(num_cpus=1, num_gpus=gpus_per_job, max_retries=0, max_calls=1 if gpus_per_job else 0)
        self._task = remote(run_job)
        self._running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        """Start a task."""
        self._running[self._task.remote(asdict(job))] = job

    def wait(self, timeout: float) -> list[JobResult]:
        """The tasks that ended."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        return [self._collect(reference) for reference in ready]

    def _collect(self, reference: Any) -> JobResult:
        job = self._running.pop(reference)
        try:
            return JobResult(**self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            return JobResult(job.key, "lost", 0.0, f"the worker died ({first})")

    def close(self) -> None:
        """Stop Ray; running tasks are killed, their checkpoints stay."""
        self._running.clear()
        self._ray.shutdown()


def make_pool(workers: int, *, address: str | None, gpus_per_job: float) -> Pool:
    """Ray for one worker or more; 0 workers: this process."""
    if workers == 0 and address is None:
        return InlinePool()
    return RayPool(max(workers, 1), address=address, gpus_per_job=gpus_per_job)
