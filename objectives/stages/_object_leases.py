"""Leases in an object store, held by one process at a time and lost by one that gives no sign of life.

The lease of a key is an object LEASE/NUMBER, and who has the highest number holds it. A number is created only where it is not
there; its holder writes a new count into it every few seconds. One that was not renewed for long enough, by the clock of
whoever waits (clocks of machines may differ), is passed over by the next number, which one waiter alone can create. A holder
that was only frozen then works in vain: artifacts are immutable, and the first stays.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from edgesearch.errors import StoreError
from edgesearch.objectives.stages._objects import Objects
from edgesearch.threads import alongside

__all__ = ["EXPIRES_S", "object_lease"]

#: A holder that did not renew its lease for so many seconds has lost it.
EXPIRES_S = 20.0
#: Renewals in that time.
_RENEWALS = 5


@contextmanager
def object_lease(
    objects: Objects, name: str, *, waiting: Callable[[str], None], expires_s: float = EXPIRES_S
) -> Iterator[None]:
    """Hold the lease, waiting for whoever holds it now. `waiting` is told once who that is.

    Raises StoreError when the store does not serve.
    """
    content = {"holder": f"process {os.getpid()} on {socket.gethostname()}", "process": _this_process(), "id": uuid.uuid4().hex}
    mine = _take(objects, name, content, waiting, expires_s)

    def renew(over: threading.Event) -> None:
        for count in range(1, 1 << 62):
            if over.wait(expires_s / _RENEWALS):
                return
            with suppress(StoreError):  # it may serve again before the lease is over
                if not _is_mine(objects, mine, content):  # somebody took this process for dead
                    return
                objects.replace(mine, _encoded(content, count))

    try:
        with alongside(renew, "lease"):
            yield
    finally:
        with suppress(StoreError):  # it ends by itself
            if _is_mine(objects, mine, content):
                objects.remove(mine)


def _take(objects: Objects, name: str, content: dict[str, Any], waiting: Callable[[str], None], expires_s: float) -> str:
    seen: tuple[str, bytes] | None = None
    since = 0.0
    told = False
    while True:
        held = objects.names(name)
        holder = (held[-1], objects.read(held[-1]) or b"") if held else None
        now = time.monotonic()
        if holder != seen:
            seen, since = holder, now
        if holder is None or not holder[1] or now - since > expires_s or _is_dead(holder[1]):
            number = int(held[-1].rpartition("/")[2]) + 1 if held else 1
            mine = f"{name}/{number:012d}"
            if objects.create(mine, _encoded(content, 0)):
                after = objects.names(name)
                if after and after[-1] == mine:  # else one with a higher number came while this process was away
                    for old in after[:-1]:
                        objects.remove(old)
                    return mine
                objects.remove(mine)
            continue
        if not told:
            told = True
            waiting(_holder(holder[1]))
        time.sleep(min(1.0, expires_s / _RENEWALS))


def _encoded(content: dict[str, Any], count: int) -> bytes:
    return json.dumps({**content, "renewed": count}).encode()


def _is_mine(objects: Objects, mine: str, content: dict[str, Any]) -> bool:
    return bool(_decoded(objects.read(mine) or b"").get("id") == content["id"])


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _holder(content: bytes) -> str:
    return str(_decoded(content).get("holder") or "another process")


def _this_process() -> list[Any]:
    """Where this process is, as others can see it: boot of the machine, namespace of process ids, id, start."""
    process = psutil.Process()
    return [*_machine(), process.pid, process.create_time()]


def _machine() -> list[str]:
    try:
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux: nobody is the same machine, and leases expire by time alone
        return [uuid.uuid4().hex, ""]


def _is_dead(content: bytes) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    process = _decoded(content).get("process")
    if not isinstance(process, list) or len(process) != 4 or process[:2] != _machine():
        return False
    try:
        found = psutil.Process(process[2])
        return bool(abs(found.create_time() - process[3]) > 1.0 or found.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
