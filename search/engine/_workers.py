"""Where jobs run: never in the process that drives the study, so that no stage can take it down."""

from __future__ import annotations

from typing import Protocol

from edgesearch.search.engine._jobs import Job, JobResult


class Pool(Protocol):
    """Runs jobs, each in a process of its own or one that it shares with no other at the time."""

    @property
    def slots(self) -> int:
        """How many jobs run side by side."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def wait(self, timeout: float) -> list[JobResult]:
        """The jobs that ended, waiting at most `timeout` seconds for the first of them."""

    def close(self) -> None:
        """Stop, dropping what still runs."""


def make_pool(workers: int, *, address: str | None = None, gpus_per_job: float = 0.0) -> Pool:
    """A pool of so many workers: Ray for one or more, a child process of ours for 0."""
    if workers == 0 and address is None:
        from edgesearch.search.engine._child import ChildPool

        return ChildPool()
    from edgesearch.search.engine._ray import RayPool

    return RayPool(max(workers, 1), address=address, gpus_per_job=gpus_per_job)
