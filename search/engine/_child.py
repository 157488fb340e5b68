"""Jobs in one process of ours, one after the other, where Ray is not wanted.

Jobs and answers are lines of JSON on two pipes. The process is a fresh interpreter that lives as long as it can: when a stage
kills it, the stage is lost and the next one gets a new process. It ends when the pipe to it ends, however the driver does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict

from edgesearch.search.engine._heartbeats import HANG_S, Heartbeats, hung
from edgesearch.search.engine._jobs import NO_MEMORY, Job, JobResult
from edgesearch.search.engine._kills import memory_kills


class ChildPool:
    """Runs jobs in a child process, in the order in which they were given. `hang_s`: a job that is silent for longer hangs."""

    slots = 1
    waits_for_boards = True

    def __init__(self, *, hang_s: float = HANG_S) -> None:
        self._beats = Heartbeats(hang_s)
        self._jobs: deque[Job] = deque()  # the first is the one that runs
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = b""

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
        runs = bool(self._jobs) and self._jobs[0].key == key and self._process is not None
        if runs and self._process is not None:
            self._process.kill()
        return runs

    def close(self) -> None:
        """Stop the process, dropping what still runs; checkpoints stay."""
        self._jobs.clear()
        if self._process is not None:
            self._process.kill()
            self._end()

    def _hung(self) -> JobResult | None:
        if self._process is None or not self._beats.silent():
            return None
        self._process.kill()
        self._end()
        return JobResult(self._jobs[0].key, "hung", 0.0, hung(self._beats.limit_s))

    def _start(self, job: Job) -> None:
        self._beats.begin(job.key, job.log)
        self._kills = memory_kills()
        for _ in range(2):  # the process may have died since its last answer
            if self._process is None:
                self._process = _spawn()
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
                self._process.stdin.flush()
                return
            except BrokenPipeError:
                self._end()

    def _read(self, timeout: float) -> JobResult | None:
        process, job = self._process, self._jobs[0]
        if process is None:  # it died twice while it was given the job
            return JobResult(job.key, "lost", 0.0, "the worker does not start")
        assert process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._answer:
            ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                return None
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                ending = _ending(self._end())
                if memory_kills() > self._kills:
                    return JobResult(job.key, "out_of_memory", 0.0, NO_MEMORY)
                return JobResult(job.key, "lost", 0.0, f"the worker died ({ending})")
            self._answer += part
        line, _, self._answer = self._answer.partition(b"\n")
        return JobResult(**json.loads(line))

    def _end(self) -> int:
        process, self._process, self._answer = self._process, None, b""
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):  # a line that was never read
            process.stdin.close()
        return process.wait()


def _spawn() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "edgesearch.search.engine._child_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # each job has its log
        # Threads of numpy's and scipy's libraries: one, as in a Ray worker, so that both give the same numbers.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the driver, which then stops this process
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
