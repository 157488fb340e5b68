"""Another process of ours that answers questions: both are lines of JSON, on one connection.

It is a child of a fork server, and ends when the connection does, however the one that asks ends.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edgesearch.search.processes._fork_server import ForkServer, NoServer

__all__ = ["Died", "LineProcess"]

#: Seconds for a process that was killed to be gone.
_END_S = 10.0


class Died(Exception):
    """The process ended, or never began; the message says so of it. `alone`: and the fork server did not."""

    def __init__(self, how: str, *, alone: bool) -> None:
        super().__init__(how)
        self.alone = alone


class LineProcess:
    """A process that answers with what the function `service` (MODULE:NAME) gives, started anew once it has died and is asked
    something. `server`: where it comes from; None: a fork server of its own, which `close` stops, too.
    """

    def __init__(self, service: str, server: ForkServer | None = None) -> None:
        self._service, self._server, self._owns_server = service, server or ForkServer(), server is None
        self._connection: socket.socket | None = None
        self._answer = b""
        self._why = "does not start"  # of one that was asked last and is not there

    @property
    def runs(self) -> bool:
        """Whether it was started and nobody has noticed its end."""
        return self._connection is not None

    def start(self) -> None:
        """Start it, unless it runs. Raises Died where that cannot be."""
        if self._connection is None:
            try:
                self._connection = self._server.connect(self._service)
            except NoServer as error:
                raise Died(str(error), alone=False) from error
            except OSError as error:
                raise Died(f"does not start ({error})", alone=False) from error

    def ask(self, question: Mapping[str, Any]) -> bool:
        """Start it if need be, and ask; False where it died twice before it was asked."""
        line = json.dumps(question).encode() + b"\n"
        for _ in range(2):  # it may have died since its last answer
            try:
                if self._has_died():
                    self._drop()
                self.start()
                assert self._connection is not None
                self._connection.sendall(line)
                return True
            except (Died, OSError) as error:
                self._why = str(error) if isinstance(error, Died) else f"does not start ({error})"
            self._drop()
        return False

    def answer(self, timeout: float | None) -> dict[str, Any] | None:
        """The next answer, if it comes within `timeout` seconds (None: however long it takes). Raises Died."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (found := self._next()) is None:
            if self._connection is None:
                raise Died(self._why, alone=False)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([self._connection], [], [], left)[0]:
                return None
            if not (part := self._read()):
                self._drop()
                raise Died("died with the process that it was forked from", alone=False)
            self._answer += part
        if (how := found.get("died")) is not None:
            self._drop()
            raise Died(f"died ({how})", alone=True)
        return found

    def kill(self) -> None:
        """Kill it, for `answer` to find that it died."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.kill()
        if self._connection is not None:
            self._connection.settimeout(_END_S)
            with suppress(OSError):
                while self._read():
                    pass
        self._drop()

    def close(self) -> None:
        """Kill it and wait for its end, and for that of a fork server of its own."""
        self.end()
        if self._owns_server:
            self._server.close()

    def _next(self) -> dict[str, Any] | None:
        """The first whole line that was read; one that its death cut off is none."""
        while b"\n" in self._answer:
            line, _, self._answer = self._answer.partition(b"\n")
            with suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
        return None

    def _has_died(self) -> bool:
        """Whether it ended though nobody asked it anything."""
        return self._connection is not None and bool(select.select([self._connection], [], [], 0)[0])

    def _read(self) -> bytes:
        assert self._connection is not None
        try:
            return self._connection.recv(1 << 16)
        except ConnectionError:
            return b""

    def _drop(self) -> None:
        connection, self._connection, self._answer = self._connection, None, b""
        if connection is not None:
            connection.close()
