"""A PostgreSQL server of our own, in a temporary folder, which may be killed and started again."""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _program(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else shutil.which(name)


def _as_postgres(command: list[str]) -> list[str]:
    """The server refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else command


class PostgreSql:
    """A server with an empty database, whose files lie in `folder`.

    `durable`: whether it flushes what it writes, as servers do; a kill of the server alone loses nothing either way.
    """

    def __init__(self, program: str, folder: str, *, durable: bool = False) -> None:
        self._program, self._folder = program, folder
        self._user = "postgres" if os.getuid() == 0 else getpass.getuser()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        options = ["-p", str(self._port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        self._options = options if durable else [*options, "-c", "fsync=off"]
        self.url = f"postgresql+psycopg://{self._user}@127.0.0.1:{self._port}/postgres"

    def prepare(self, initdb: str) -> None:
        command = [initdb, "-D", f"{self._folder}/data", "-U", self._user, "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            _as_postgres(command), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            _as_postgres([self._program, "-D", f"{self._folder}/data", *self._options]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
        )
        _wait(self._port, self._process)

    def kill(self) -> None:
        """Kill it in the middle of whatever it does; its children end by themselves."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        """Its "fast shutdown", if it runs."""
        self._stop(signal.SIGINT)

    def _stop(self, number: signal.Signals) -> None:
        pid_file = Path(self._folder) / "data" / "postmaster.pid"
        if self._process.poll() is None and pid_file.exists():
            os.kill(int(pid_file.read_text().splitlines()[0]), number)
        self._process.wait(timeout=60)


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgreSql]:
    """A server that runs; skips the test where there is no PostgreSQL or no driver for it."""
    initdb, server = _program("initdb"), _program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'edgesearch[postgresql]')")
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        database = PostgreSql(server, folder, durable=durable)
        database.prepare(initdb)
        database.start()
        try:
            yield database
        finally:
            database.stop()


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of an empty database; skips the test where there is no PostgreSQL or no driver for it."""
    with running_postgresql() as database:
        yield database.url


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(600):
        assert process.poll() is None, "PostgreSQL ended"
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="postgres" if os.getuid() == 0 else None, dbname="postgres"
            ).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start")
