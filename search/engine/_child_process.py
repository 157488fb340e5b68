"""The process that `ChildPool` starts: reads jobs, runs them, writes answers; ends when its standard input does."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading

from edgesearch.search.engine._jobs import run_job


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the driver
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        answer = run_job(json.loads(lines.get()))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(lines: queue.Queue[str]) -> None:
    """Hand lines on; at the end of the input, which is the driver's end, end this process in the middle of whatever it does."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
