"""Debian's own sshd on loopback as a board: its own configuration, keys, port and folder, and its processes to do harm to."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from edgesearch.board_eval.remote import BoardSettings

T = TypeVar("T")

#: Packages xir and vart that execute compiled files in the machine, and a program xdputil.
STANDIN = Path(__file__).parent / "runner" / "standin"
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {root}/host_key
AuthorizedKeysFile {root}/user_key.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin prohibit-password
PrintMotd no
MaxStartups 100
MaxSessions 100
LogLevel ERROR
{environment}
{login}
"""


#: A report as the runner writes it.
REPORT: dict[str, Any] = {
    "format": 1, "runner": "cpp", "runner_version": "1",
    "xmodel": {"sha256": "0" * 64, "fingerprint": "0x101000056010407"},
    "board": {"fingerprint": None, "vart": "3.5.0", "dpu_cores": 2, "dpu_mhz": 300, "cpu": None, "python": None},
    "input": {"shape": [8, 8, 3], "fix_position": None}, "output": {"shape": [10], "fix_position": None},
    "images": {"count": 4, "correct": None, "seconds": 0.1},
    "latency": {
        "threads": 1, "median_ms": 0.5, "mean_ms": 0.5, "p95_ms": 0.6, "p99_ms": 0.7, "min_ms": 0.4, "runs": 100,
        "repeats_ms": [0.5] * 5, "spread": 0.01, "settled": True,
    },
    "throughput": {"threads": 4, "fps": 4000.0, "images": 900, "repeats_fps": [4000.0] * 5, "spread": 0.01, "settled": True},
    "power": {"idle_w": 8.0, "busy_w": 12.5, "sensor": "ina226"}, "power_note": None,
    "temperature_c": {"start": 40.0, "end": 41.0}, "measured_at": "2024-01-01T00:00:00+00:00",
    "seconds": 12.0,
}  # fmt: skip

#: In the place of the runner where its figures are not the point: quick, and its logits are the first values of each image.
_QUICK = """#!{python}
import hashlib, json, sys
import numpy as np
def value(option): return sys.argv[sys.argv.index(option) + 1]
report = json.loads({report!r})
images = np.load(value("--images"))
report["images"]["count"] = len(images)
report["xmodel"]["sha256"] = hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest()
np.save(value("--logits"), images.reshape(len(images), -1)[:, :{values}])
{more}
json.dump(report, open(value("--result"), "w"))
"""


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _left(look: Callable[[], list[T]]) -> list[T]:
    """What `look` finds once it finds nothing, or ten seconds later."""
    end = time.monotonic() + 10
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class LoopbackBoard:
    """A running sshd. `root` holds its keys and files of the tests, `folder` is the one for jobs, as on a board."""

    root: Path
    port: int
    #: Further environment of the programs that it runs.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: What the login shell does before each command.
    login: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def all_environment(self) -> dict[str, str]:
        """What its programs find: the stand-in of VART, this Python, and what `knobs` said."""
        path = f"{self.root / 'bin'}:{STANDIN / 'bin'}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "PYTHONPATH": str(STANDIN), "VART_STANDIN": str(self.root / "knobs.json"), **self.environment}

    def knobs(self, **values: Any) -> None:
        """Set the stand-in's knobs, as noise=0.3, for the programs that start from now on."""
        (self.root / "knobs.json").write_text(json.dumps(values))

    def program(self, name: str, script: str) -> Path:
        """A program on the board's PATH, before all others of its name."""
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    @property
    def folder(self) -> Path:
        return self.root / "board"

    def settings(self, **keys: Any) -> BoardSettings:
        given: dict[str, Any] = {
            "name": "lab",
            "host": "127.0.0.1",
            "port": self.port,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "key": self.root / "user_key",
            "known_hosts": self.root / "known_hosts",
            "folder": str(self.folder),
            "runner": "python",
            "python": sys.executable,
            "seconds": 0.2,
            "timeout_s": 60.0,
        }
        return BoardSettings.model_validate(given | keys)

    def boards_file(self, name: str = "lab", **keys: Any) -> Path:
        """A boards file that names this board alone."""
        settings = self.settings(**keys).model_dump(mode="json", exclude={"name"})
        lines = [f"{key} = {list(value) if isinstance(value, tuple) else value!r}" for key, value in settings.items()]
        path = self.root / "boards.toml"
        path.write_text("\n".join([f"[board.{name}]", *lines]) + "\n")
        return path

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = " ".join(f'"{name}={value}"' for name, value in self.all_environment.items())
        config = self.root / "sshd_config"
        login = f'ForceCommand {self.login}; eval "$SSH_ORIGINAL_COMMAND"' if self.login else ""
        config.write_text(_CONFIG.format(port=self.port, root=self.root, environment=f"SetEnv {words}", login=login))
        assert SSHD is not None
        with (self.root / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"sshd does not start: {(self.root / 'sshd.log').read_text()}")

    def quick_runner(self, more: str = "", *, values: int = 10) -> str:
        """A board's Python that reports at once, without VART. `more` is its code between making the report and writing it."""
        script = _QUICK.format(python=sys.executable, report=json.dumps(REPORT), values=values, more=more)
        return str(self.program("quick", script))

    def servers(self) -> list[psutil.Process]:
        """Its processes that speak SSH, the one that listens last; not what they run."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        found = []
        for process in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith("sshd"):
                    found.append(process)
        return [*found, parent]

    def signal(self, number: int) -> None:
        """Send a signal to all of them: SIGKILL ends the board's connections, SIGSTOP hangs them."""
        for process in self.servers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> None:
        """End it, and the connections that it has."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def running(self, name: str | None = None) -> list[psutil.Process]:
        """What runs for its jobs now, by what their command lines name: all, or those of a name."""
        prefix = str(self.folder / "edgesearch-job.")
        found = [p for p in psutil.process_iter(["name", "cmdline"]) if prefix in " ".join(p.info["cmdline"] or ())]
        return [p for p in found if name in (None, p.info["name"])]

    def command_lines(self, name: str) -> str:
        """Of what runs for its jobs now and has this name."""
        found = []
        for process in self.running(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()))
        return "\n".join(found)

    def programs(self, name: str | None) -> list[psutil.Process]:
        """What still runs for its jobs after a moment for the last, as `running` has it."""
        return _left(lambda: self.running(name))

    def left_behind(self) -> list[str]:
        """Private folders of jobs on the board, after a moment for those whose connection was lost."""
        return _left(lambda: sorted(p.name for p in self.folder.glob("edgesearch-job.*")))

    def cached(self) -> list[Path]:
        """Files that the board keeps for later jobs."""
        return sorted(self.folder.glob("edgesearch-cache.*/*"))


@contextlib.contextmanager
def loopback_board(root: Path, environment: Mapping[str, str] | None = None, *, login: str = "") -> Iterator[LoopbackBoard]:
    """A board for the block; skips the test where there is no sshd."""
    if SSHD is None:
        pytest.skip("no sshd on this machine (openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd shuts its unprivileged half in
    for name in ("host_key", "user_key"):
        _keygen(root / name)
    board = LoopbackBoard(root, _free_port(), dict(environment or {}), login)
    board.folder.mkdir()
    public = (root / "host_key.pub").read_text().split()
    (root / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {public[0]} {public[1]}\n")
    try:
        board.start()
        yield board
    finally:
        board.stop()
