"""Logs of workers whose disk the driver does not see: pieces go to a keeper on the cluster, and from there to the driver.

A piece comes every few seconds, an empty one too where the log was but touched, so that the driver's copy shows the signs of
life that the log itself does.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgesearch.search.processes import touched_at
from edgesearch.threads import alongside

__all__ = ["LogKeeper", "local_log", "relayed", "write_pieces"]

#: Seconds between two pieces.
_EVERY_S = 3.0
#: Bytes that the keeper holds of one log until the driver takes them; what is older goes.
_MOST = 1 << 20


class LogKeeper:
    """Holds pieces of logs until the driver takes them. It runs as an actor of Ray."""

    def __init__(self) -> None:
        self._pieces: dict[str, bytes] = {}

    def add(self, log: str, piece: bytes) -> None:
        """A worker's piece of the log that the driver knows by this path."""
        self._pieces[log] = (self._pieces.get(log, b"") + piece)[-_MOST:]

    def take(self) -> dict[str, bytes]:
        """All pieces since the last time, by the paths of their logs."""
        taken, self._pieces = self._pieces, {}
        return taken


def write_pieces(pieces: dict[str, bytes]) -> None:
    """Append pieces to the driver's logs, and touch those of which nothing new was said."""
    for log, piece in pieces.items():
        with suppress(OSError):
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            with Path(log).open("ab") as file:
                file.write(piece)
            os.utime(log)


def local_log(log: str, marker: str) -> str:
    """Where a worker writes a log: there, if it sees the driver's marker and so its folder, else on its own disk."""
    if not marker or Path(marker).exists():
        return log
    return str(Path(tempfile.mkdtemp(prefix="edgesearch-log-")) / Path(log).name)


@contextmanager
def relayed(keeper: Any, log: str, local: str, *, every_s: float = _EVERY_S) -> Iterator[None]:
    """Give the keeper what comes to be written in the file `local`, as pieces of the driver's `log`, while it lasts."""
    import ray

    def send(over: threading.Event) -> None:
        sent, touched = 0, None
        while True:
            is_last = over.wait(every_s)
            with suppress(Exception):  # a keeper that is away; nothing depends on it
                before, touched = touched, touched_at(Path(local))
                if touched == before and not is_last:
                    continue
                content = b""
                if touched is not None:
                    with Path(local).open("rb") as file:
                        file.seek(sent)
                        content = file.read()
                given = keeper.add.remote(log, content)
                sent += len(content)
                if is_last and ray.is_initialized():  # so that it is there before the job's answer is
                    ray.get(given, timeout=_EVERY_S)
            if is_last:
                return

    with alongside(send, "relay"):
        yield
