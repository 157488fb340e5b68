"""One external program: no shell, a bounded log, and nothing left running when its time is up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edgesearch.errors import ToolchainError, ToolchainMissing
from edgesearch.files import Watcher

__all__ = ["Command", "Finished", "host_environment", "last_lines", "run_command"]

#: Bytes of a program's output that are kept: its beginning and its end.
_HEAD, _TAIL = 256 * 1024, 1024 * 1024
#: Seconds that a program has to end by itself once it was told to, and its engine to stop a container.
_GRACE_S, _STOP_S = 5.0, 30.0
#: What a program of this machine needs of the environment: nothing of ours that would lead another Python to our packages.
_PASSED = (
    "CONDA_PREFIX",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_HOST",
    "CUDA_VISIBLE_DEVICES",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "OMP_NUM_THREADS",
    "PATH",
    "TMPDIR",
    "USER",
    "VAI_ROOT",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XILINX_XRT",
)
#: Colours and cursor movements, and other bytes that are no text.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\xa0-\U0010ffff]")


@dataclass(frozen=True)
class Command:
    """A program with its arguments, where it runs, and the command that ends what it started elsewhere, if any."""

    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop: Sequence[str] = ()


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit code, negative for a signal, and what it printed, cut in the middle where it was long."""

    code: int
    output: str


def host_environment(**more: str) -> dict[str, str]:
    """The few variables that a program of this machine is given, with `more`."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ} | more


def run_command(command: Command, *, log: Path | None, timeout_s: float) -> Finished:
    """Run a program to its end; what it prints is kept in `log`, a megabyte of it.

    Its process group ends with it, and with this process, should that be killed. Raises ToolchainError where it takes
    longer than `timeout_s`, ToolchainMissing where it cannot be started, or `log` not be written.
    """
    with Watcher(stop=command.stop) as watcher:
        return _watched(command, log, timeout_s, watcher)


def _watched(command: Command, log: Path | None, timeout_s: float, watcher: Watcher) -> Finished:
    name = Path(command.arguments[0]).name
    try:
        process = subprocess.Popen(
            list(command.arguments),
            cwd=command.folder,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolchainMissing(f"{command.arguments[0]} cannot be started: {error.strerror or error}") from error
    watcher.group(process.pid)
    assert process.stdout is not None
    kept = _Kept()
    reader = threading.Thread(target=kept.read, args=(process.stdout,), daemon=True)
    reader.start()
    late = False
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _end(process, command, unfinished=late or process.returncode is None)
        reader.join(_GRACE_S)
        if not reader.is_alive():  # else a process that left the group still holds the other end
            process.stdout.close()
    finished = Finished(process.returncode, kept.text())
    if log is not None:
        _write_log(log, command, finished)
    if late:
        raise ToolchainError(f"{name} did not end within {timeout_s:g} s and was stopped{_quoted(finished.output)}")
    return finished


def last_lines(output: str, count: int = 3, width: int = 200) -> str:
    """The last lines that say something, joined by " | ", without colours and control characters."""
    lines = [" ".join(_ESCAPES.sub(" ", line).split()) for line in re.split(r"[\r\n]+", output)]
    return " | ".join(line[:width] for line in [line for line in lines if line][-count:])


def _quoted(output: str) -> str:
    said = last_lines(output)
    return f" (its last lines: {said})" if said else ""


def _end(process: subprocess.Popen[bytes], command: Command, *, unfinished: bool) -> None:
    """End the process and its group; a container is no child of ours, so its engine is told to end it."""
    if unfinished and command.stop:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                list(command.stop),
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_STOP_S,
            )
    for sign in _signals(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)


def _signals(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """SIGTERM, and once the process had time to go, SIGKILL for what is left of its group."""
    if process.poll() is None:
        yield signal.SIGTERM
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    yield signal.SIGKILL
    process.wait()


class _Kept:
    """The beginning and the end of what a program printed."""

    def __init__(self) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._lost = 0

    def read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed under our hands
            while chunk := os.read(stream.fileno(), 1 << 16):
                room = max(0, _HEAD - len(self._head))
                self._head += chunk[:room]
                self._tail += chunk[room:]
                excess = max(0, len(self._tail) - _TAIL)
                self._lost += excess
                del self._tail[:excess]

    def text(self) -> str:
        middle = f"\n[... {self._lost} bytes left out ...]\n".encode() if self._lost else b""
        return (bytes(self._head) + middle + bytes(self._tail)).decode("utf-8", "replace")


def _write_log(path: Path, command: Command, finished: Finished) -> None:
    content = f"$ {' '.join(map(repr, command.arguments))}\n{finished.output}\n[exit code {finished.code}]\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise ToolchainMissing(f"the log {path} cannot be written: {error.strerror or error}") from error
