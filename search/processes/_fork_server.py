"""Processes of ours, forked from one that has imported all that stages need: none of them pays for it, in time or memory.

The fork server is a fresh interpreter with one thread, which touches no GPU and runs nothing itself. It listens on a socket
that has a name and no file, and serves processes of the same user. A connection is a child: it answers lines of JSON with such
lines, and is killed once its connection is cut, however the process at the other end does that.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress

from edgesearch.search.processes._heap import with_whole_blocks

__all__ = ["ONE_THREAD", "SERVER_VARIABLE", "SHARED_VARIABLE", "ForkServer", "NoServer", "user_of"]

#: The environment's variable that tells processes of a local Ray the name of their driver's server.
SERVER_VARIABLE = "EDGESEARCH_FORK_SERVER"
#: The one that tells drivers, and all others, the name of a server which they share.
SHARED_VARIABLE = "EDGESEARCH_SHARED_FORK_SERVER"
_MODULE = "edgesearch.search.processes._fork_server_process"
#: The environment of all that compute: threads of numpy's and scipy's libraries, so that numbers do not depend on the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: Seconds for which a server that ends as it begins is tried again.
_PATIENCE_S = 60.0
#: Seconds for a server to end by itself, once its children's connections are closed.
_LEAVE_S = 10.0


class NoServer(Exception):
    """The fork server does not start; the message says so of it."""


class ForkServer:
    """A fork server that is started when it is needed, and again where it died.

    name: of its socket; None: the one that the environment names, else one that nobody knows. Processes that know the name
    share the server. shared: it is nobody's child, and serves the others on when this process ends; else `close` stops it.
    Either way it ends when the process that started it has, and no connection is left.
    """

    def __init__(self, name: str | None = None, *, shared: bool = False) -> None:
        self.name = name or os.environ.get(SHARED_VARIABLE) or f"edgesearch-{secrets.token_hex(16)}"
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs: its imports take seconds, in which others may do something else."""
        if self._shared or self._process is None or self._process.poll() is not None:
            self._spawn()

    def connect(self, service: str) -> socket.socket:
        """A child that answers with what the function `service` (MODULE:NAME) gives for each question.

        It has this process's environment and working folder. Raises NoServer.
        """
        deadline = time.monotonic() + _PATIENCE_S
        greeting = {"service": service, "environment": {**os.environ, **ONE_THREAD}, "folder": _folder()}
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(_address(self.name))
                if user_of(connection) != os.getuid():
                    raise NoServer("is another user's")
                connection.sendall(json.dumps(greeting).encode() + b"\n")
                return connection
            except (ConnectionError, NoServer) as error:
                connection.close()
                if isinstance(error, NoServer) or time.monotonic() > deadline:
                    raise NoServer(f"does not start ({error})") from error
            self.start()
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the one that this process started; its children's connections are closed by now."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_S)
        process.kill()
        process.wait()

    def _spawn(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(_address(self.name))
            except OSError:  # another process has just started it
                return
            listener.listen(128)  # whoever connects from now on waits for its imports
            self._drop()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(listener.fileno()), *(["apart"] if self._shared else [])],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # its end is that of this process
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # each job has its log
                env=with_whole_blocks({**os.environ, **ONE_THREAD}),
                start_new_session=True,  # Ctrl-C is for the driver, which then stops it
            )
        if self._shared:
            self._process.wait()  # what runs on is no child of this process

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()


def user_of(connection: socket.socket) -> int:
    """The user whose process is at the other end, or made the socket there."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user)


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return "/"


def _address(name: str) -> str:
    return f"\0{name}"  # of Linux's names for sockets that are no files
