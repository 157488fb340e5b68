"""A process for each stage, without paying its imports each time: a parent that has imported all forks one for every job.

Stages on a GPU need it: what a process took of a GPU's memory goes back for sure when it ends. The parent touches no GPU, has
one thread, and never runs a stage itself. It ends, with the stage under way, when whoever started it does.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from edgesearch.search.engine._jobs import Job, JobResult

__all__ = ["run_warm"]

#: Of the process's environment, what may differ from one job to the next: the GPUs that Ray gave it.
_PER_JOB = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

_parent: subprocess.Popen[bytes] | None = None


def run_warm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Run one stage in a process of its own; see `run_job`. A process that dies is an outcome, too: the stage is lost."""
    for _ in range(2):  # the parent may have died since the last job
        parent = _running()
        assert parent.stdin is not None
        assert parent.stdout is not None
        environment = {name: os.environ.get(name) for name in _PER_JOB}
        line = json.dumps({"job": dict(content), "environment": environment}).encode() + b"\n"
        try:
            parent.stdin.write(line)
            parent.stdin.flush()
        except BrokenPipeError:
            _stop()
            continue
        answer = parent.stdout.readline()
        if not answer:
            _stop()
            break
        found: dict[str, Any] = json.loads(answer)
        return found if "key" in found else _lost(content, str(found["death"]))
    return _lost(content, "with the process that starts it")


def _lost(content: Mapping[str, Any], how: str) -> dict[str, Any]:
    return asdict(JobResult(Job(**content).key, "lost", 0.0, f"the stage's process died ({how})"))


def _running() -> subprocess.Popen[bytes]:
    global _parent
    if _parent is None or _parent.poll() is not None:
        _stop()
        _parent = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgesearch.search.engine._warm_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # each job has its log
        )
        atexit.register(_stop)
    return _parent


def _stop() -> None:
    global _parent
    atexit.unregister(_stop)
    process, _parent = _parent, None
    if process is None:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()
