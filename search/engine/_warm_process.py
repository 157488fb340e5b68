"""The process that `run_warm` starts: imports what stages need, then forks a child for every job and hands its answer on."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Mapping
from typing import Any

from edgesearch.search.engine._jobs import run_job


def main() -> None:
    """Serve until standard input ends. It has one thread, so that its children are whole."""
    _import_all()
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing but answers goes to whoever started this process
    line = b""
    while True:
        part = os.read(0, 1 << 16)
        if not part:
            return
        line += part
        if not line.endswith(b"\n"):
            continue
        request, line = json.loads(line), b""
        os.write(answers, _run(request["job"], request["environment"]) + b"\n")


def _import_all() -> None:
    from edgesearch.objectives import stage_specs
    from edgesearch.objectives.stages import run_stage

    assert run_stage is not None
    stage_specs()


def _run(job: Mapping[str, Any], environment: Mapping[str, str | None]) -> bytes:
    """Run a job in a child; its answer, or how it died. Ends this process with its child where standard input ends."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(mine)
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            _write_all(its, json.dumps(run_job(job)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(its)
    answer = b""
    while True:
        ready, _, _ = select.select([mine, 0], [], [])
        if 0 in ready:  # one job at a time: this is its end
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        part = os.read(mine, 1 << 16)
        if not part:
            break
        answer += part
    os.close(mine)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if answer and code == 0:
        return answer
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return json.dumps({"death": how}).encode()


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


if __name__ == "__main__":
    main()
