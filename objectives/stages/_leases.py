"""Leases: one process at a time makes what belongs to a key, whichever study asked for it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgesearch.objectives.stages._entries import writing

#: Seconds between two looks at a lease that another process holds.
_EVERY_S = 0.5


@contextmanager
def file_lease(path: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the file at `path`, waiting for whoever holds it now; a lease ends with its process, however that ends.

    `waiting` is told once who holds it. Raises StoreError when the file cannot be written.
    """
    while True:
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                waiting(file.read().strip() or "another process")
                _wait_for(file)
            if not _is_at(file.fileno(), path):  # its last holder removed it while we waited
                continue
            with writing(f"the lease {path}"):
                file.seek(0)
                file.truncate()
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> IO[str]:
    with writing(f"the lease {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _wait_for(file: IO[str]) -> None:
    """Looks again and again, and does not sleep in the kernel: whoever watches this process sees that it lives."""
    while True:
        time.sleep(_EVERY_S)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
