"""A Python that has imported torch and all of ours already: what it runs is forked from a fork server, seconds sooner."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

#: The program: it asks the server for a process that runs what it was given, waits for it, and ends as that does. Is it
#: killed, the server kills that process.
_CLIENT = """#!{python} -IS
import json, os, re, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect("\\x00{name}")
for line in (
    {{"service": "_warm_python:run", "environment": {{**os.environ, **{environment!r}}}, "folder": os.getcwd()}},
    {{"words": sys.argv[1:], "outputs": [f"/proc/{{os.getpid()}}/fd/{{number}}" for number in (1, 2)]}},
):
    server.sendall(json.dumps(line).encode() + b"\\n")
end = json.loads(server.makefile().read().strip() or '{{"died": "exit code 1"}}')
kind, code = end["died"].rsplit(" ", 1)
if kind == "signal":
    os.kill(os.getpid(), getattr(signal, code, 9))
sys.exit(int(code))
"""


def write_client(path: Path, server: str, **environment: str) -> None:
    """Write a program that stands for a Python with these variables; `server` has this folder in its PYTHONPATH."""
    path.write_text(_CLIENT.format(python=sys.executable, name=server, environment=environment))
    path.chmod(0o755)


def run(question: dict[str, Any]) -> dict[str, Any]:
    """Be `python WORDS...`: a script, or -c and code. It ends this process."""
    for descriptor, output in enumerate(question["outputs"], 1):
        os.dup2(os.open(output, os.O_WRONLY), descriptor)
    code: object = 0
    try:
        _run(question["words"])
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def _run(words: list[str]) -> None:
    first, *others = words
    sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
    if first == "-c":
        sys.argv[:] = ["-c", *others[1:]]
        exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv[:] = words
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")
