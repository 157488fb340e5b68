"""The process that `ForkServer` starts: imports what stages need, then forks a child for every connection."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from edgesearch.search.processes._fork_server import user_of

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input, and so the process that started this one, has ended, and there is no child."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    if "apart" in sys.argv[2:] and os.fork():
        os._exit(0)
    _call_itself("fork_server")
    _import_all()
    gc.collect()
    gc.freeze()  # a collection in a child would copy pages that it shares
    _Server(listener).serve()


def _import_all() -> None:
    """What stages, and looks at candidates, begin with; it imports nearly all that they use."""
    from edgesearch import objectives
    from edgesearch.plugins import import_torchvision

    for name in ("Estimator", "open_store", "run_stage"):
        getattr(objectives, name)
    objectives.stage_specs()
    import_torchvision("models")
    import_module("scipy.optimize")  # which quantization imports when it runs


class _Server:
    """One thread, so that children are whole."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: dict[int, tuple[socket.socket, int]] = {}  # by the connection's descriptor: process
        self._woken, self._wakes = os.pipe()  # by the end of a child
        os.set_blocking(self._wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._poll = select.poll()
        for descriptor in (listener.fileno(), self._woken):
            self._poll.register(descriptor, select.POLLIN)
        self._poll.register(0, select.POLLIN)
        self._is_owned = True

    def serve(self) -> None:
        """Until nobody needs it any more."""
        while self._is_owned or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._woken:
                    os.read(self._woken, 1 << 16)
                    self._bury()
                elif descriptor == 0:
                    if not os.read(0, 1 << 16):
                        self._is_owned = False
                        self._poll.unregister(0)
                elif descriptor in self._children:  # cut
                    self._poll.unregister(descriptor)
                    os.kill(self._children[descriptor][1], signal.SIGKILL)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if user_of(connection) != os.getuid():
            connection.close()
            return
        server = os.getpid()
        try:
            process = os.fork()
        except OSError:  # no memory, or too many processes: whoever asked tries again
            connection.close()
            return
        if process == 0:
            self._be_child(connection, server)
        self._children[connection.fileno()] = connection, process
        self._poll.register(connection.fileno(), select.POLLRDHUP)

    def _be_child(self, connection: socket.socket, server: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            for other, _ in self._children.values():
                other.close()
            self._listener.close()
            os.close(self._woken)
            os.close(self._wakes)
            if os.getppid() == server:  # else it has died already
                _answer(connection)
            code = 0
        finally:
            os._exit(code)

    def _bury(self) -> None:
        """Say of each child that ended how it did, to the one that it worked for."""
        ended = {}
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended[found[0]] = os.waitstatus_to_exitcode(found[1])
        for descriptor, (connection, process) in list(self._children.items()):
            if process in ended:
                death = b"\n" + json.dumps({"died": _ending(ended[process])}).encode() + b"\n"
                with suppress(OSError):  # nobody is there, or reads
                    connection.send(death, socket.MSG_DONTWAIT)
                del self._children[descriptor]
                with suppress(KeyError):  # it was cut
                    self._poll.unregister(descriptor)
                connection.close()


def _answer(connection: socket.socket) -> None:
    """Be what the first line asks for until the connection ends."""
    lines = connection.makefile("rb")
    greeting = json.loads(lines.readline() or "{}")
    if not greeting:
        return
    os.environ.clear()
    os.environ.update(greeting["environment"])
    with suppress(OSError):
        os.chdir(greeting["folder"])
    module, _, name = greeting["service"].partition(":")
    _call_itself(name)
    answer: Callable[[dict[str, Any]], Mapping[str, Any]] = getattr(import_module(module), name)
    for line in lines:
        connection.sendall(json.dumps(answer(json.loads(line))).encode() + b"\n")


def _call_itself(name: str) -> None:
    """In lists of processes."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


if __name__ == "__main__":
    main()
