"""Another process of ours that answers questions: both are lines of JSON, on two pipes.

The process is a fresh interpreter. It ends when the pipe to it ends, however the one that asks does.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["Died", "LineProcess", "serve"]


class Died(Exception):
    """The process ended, or never began; the message says so of it."""


class LineProcess:
    """A process that runs `module`, started anew once it has died and is asked something."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = b""

    @property
    def runs(self) -> bool:
        """Whether it was started and nobody has noticed its end."""
        return self._process is not None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is None:
            self._process = _spawn(self._module)

    def ask(self, question: Mapping[str, Any]) -> bool:
        """Start it if need be, and ask; False where it died twice before it was asked."""
        for _ in range(2):  # it may have died since its last answer
            self.start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
                return True
            except BrokenPipeError:
                self._end()
        return False

    def answer(self, timeout: float) -> dict[str, Any] | None:
        """The next answer, if it comes within `timeout` seconds. Raises Died."""
        process = self._process
        if process is None:
            raise Died("does not start")
        assert process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._answer:
            ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                return None
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                raise Died(f"died ({_ending(self._end())})")
            self._answer += part
        line, _, self._answer = self._answer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Kill it, for `answer` to find that it died."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Kill it and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> int:
        process, self._process, self._answer = self._process, None, b""
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):  # a line that was never read
            process.stdin.close()
        return process.wait()


def _spawn(module: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
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


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Be such a process: answer one question after the other until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the one that asks
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        answers.write(json.dumps(answer(json.loads(lines.get()))) + "\n")
        answers.flush()


def _read(lines: queue.Queue[str]) -> None:
    """Hand lines on; at the end of the input, which is the asker's end, end this process in the middle of whatever it does."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)
