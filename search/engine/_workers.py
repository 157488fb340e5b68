"""Where jobs run: never in the process that drives the study, so that no stage can take it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgesearch.search.processes import HANG_S, ForkServer, Job, JobResult


class Pool(Protocol):
    """Runs jobs, each in a process of its own or one that it shares with no other at the time."""

    @property
    def slots(self) -> int:
        """How many jobs that compute run side by side."""

    @property
    def waits_for_boards(self) -> bool:
        """Whether a job on a board takes the place of one that computes; else it runs beside them, since it only waits."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def wait(self, timeout: float) -> list[JobResult]:
        """The jobs that ended, waiting `timeout` seconds at most for the first of them, and as long when none runs."""

    def cancel(self, key: str) -> bool:
        """Stop the job of the stage with this key, if it runs: then `wait` tells that it was lost. Whether it runs."""

    def close(self) -> None:
        """Stop, dropping what still runs."""


def make_pool(
    workers: int | None,
    *,
    address: str | None = None,
    threads: int = 1,
    gpus_per_job: float = 0.0,
    gpus: int | None = None,
    memory_per_job: int = 0,
    boards: Mapping[str, int] | None = None,
    hang_s: float = HANG_S,
    server: ForkServer | None = None,
) -> Pool:
    """A pool of so many workers: Ray for one or more, a child process of ours for 0. None: as many as a cluster has room for.

    threads, gpus_per_job, memory_per_job (bytes): what each job that computes is given of a cluster's node. gpus: how many
    there are, for a local instance (None: as Ray finds). boards: how many jobs each takes. hang_s: a worker that gives no sign
    of life for longer is stopped. server: what processes of this machine are forked from; None: a fork server of its own.
    """
    if workers == 0 and address is None:
        from edgesearch.search.processes import ChildPool

        return ChildPool(hang_s=hang_s, server=server)
    from edgesearch.search.cluster import RayPool

    return RayPool(
        None if workers is None else max(workers, 1),
        address=address,
        threads=threads,
        gpus_per_job=gpus_per_job,
        gpus=gpus,
        memory_per_job=memory_per_job,
        boards=boards or {},
        hang_s=hang_s,
        server=server,
    )
