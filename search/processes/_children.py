"""Stages in children of the fork server: of a driver without Ray, and of Ray's workers, which import next to nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from edgesearch.search.processes._fork_server import SERVER_VARIABLE, ForkServer
from edgesearch.search.processes._jobs import NO_MEMORY, Job, JobResult
from edgesearch.search.processes._kills import memory_kills
from edgesearch.search.processes._lines import Died, LineProcess

__all__ = ["JobProcess", "run_in_child"]


class JobProcess:
    """A process that runs jobs, one after the other, and is started anew where one ended it."""

    def __init__(self, server: ForkServer | None = None) -> None:
        self.process = LineProcess("edgesearch.search.processes._jobs:run_job", server)
        self._kills = 0  # of processes on this machine for want of memory, as the job began

    def begin(self, content: Mapping[str, Any]) -> None:
        """Give it a job, as JSON."""
        self._kills = memory_kills()
        self.process.ask(content)  # where it cannot be asked, there is nothing to read the answer from

    def result(self, content: Mapping[str, Any], timeout: float | None) -> dict[str, Any] | None:
        """The job's `JobResult`, if it comes within `timeout` seconds (None: however long it takes)."""
        try:
            return self.process.answer(timeout)
        except Died as death:
            key = Job(**content).key
            if memory_kills() > self._kills:
                return asdict(JobResult(key, "out_of_memory", 0.0, NO_MEMORY))
            return asdict(JobResult(key, "lost" if death.alone else "interrupted", 0.0, f"the worker {death}"))


def run_in_child(content: Mapping[str, Any], *, own_process: bool) -> dict[str, Any]:
    """Run one stage for a worker of Ray's; see `run_job`. own_process: for no other stage.

    Stages on a GPU need that: what a process took of a GPU's memory goes back for sure when it ends.
    """
    jobs = _of_this_worker()
    jobs.begin(content)
    result = jobs.result(content, None)
    assert result is not None
    if own_process:
        jobs.process.end()
    return result


@cache
def _of_this_worker() -> JobProcess:
    name = os.environ.get(SERVER_VARIABLE)
    if name is None:  # on a cluster: the first worker of a driver on a node starts the server for all
        import ray

        context = ray.get_runtime_context()
        name = f"edgesearch-{context.get_node_id()}-{context.get_job_id()}"
    return JobProcess(ForkServer(name, shared=True))
