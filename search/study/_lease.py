"""Who may write a study: one driver at a time, whatever home or machine it runs in, agreed on in the study's own database."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
from optuna.storages import RDBStorage
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from edgesearch.errors import StudyError
from edgesearch.search.study._creation import create_once
from edgesearch.search.study._errors import DATABASE_ERRORS, database_errors, seconds_of
from edgesearch.threads import alongside

#: Seconds between two signs of life.
HEARTBEAT = 5.0
#: A holder that gave no sign of life for so many seconds is dead; the variable says another number, for all drivers alike.
DEAD_AFTER, DEAD_AFTER_VARIABLE = 60.0, "EDGESEARCH_LEASE_S"

_TABLE = Table(
    "edgesearch_leases",
    MetaData(),
    Column("study_name", String(512), primary_key=True),
    Column("token", String(32), nullable=False),  # of this lease: another one of the same study has another
    Column("host", String(255), nullable=False),
    Column("machine", String(255), nullable=False),  # in which the process number means something
    Column("process", Integer, nullable=False),
    Column("process_started", Float, nullable=False),
    Column("folder", String(4096), nullable=False),
    Column("heartbeat", DateTime(timezone=True), nullable=False),  # by the database's clock
)


@dataclass(frozen=True)
class _Holder:
    token: str
    host: str
    machine: str
    process: int
    process_started: float
    folder: str
    heartbeat: datetime
    now: datetime

    @property
    def age(self) -> float:
        """Seconds since its last sign of life."""
        return (self.now - self.heartbeat).total_seconds()

    def is_dead(self, dead_after: float) -> bool:
        """Its process is gone, where that can be seen, or it was silent for too long."""
        gone = self.machine == _machine() and not _is_running(self.process, self.process_started)
        return gone or self.age > dead_after


class Lease:
    """The right to write one study, until another driver takes it."""

    def __init__(self, storage: RDBStorage, study_name: str, token: str) -> None:
        self._storage, self._study_name, self._token = storage, study_name, token

    def confirm(self, connection: Connection) -> None:
        """Hold the lease until the transaction of `connection` ends; raises StudyError when it is another's by now."""
        sign_of_life = update(_TABLE).where(*self._mine()).values(heartbeat=func.now())
        if connection.execute(sign_of_life).rowcount != 1:
            raise StudyError(
                f"another process took study {self._study_name!r} over while this one gave no sign of life; this one stops here"
            )

    def beat(self) -> None:
        """Give a sign of life; raises StudyError when the lease is another's by now."""
        with self._storage.engine.begin() as connection:
            self.confirm(connection)

    def release(self) -> None:
        """Let the next driver have it at once."""
        with self._storage.engine.begin() as connection:
            connection.execute(delete(_TABLE).where(*self._mine()))

    def _mine(self) -> tuple[ColumnElement[bool], ...]:
        return _TABLE.c.study_name == self._study_name, _TABLE.c.token == self._token


@contextmanager
def hold_lease(
    storage: RDBStorage,
    study_name: str,
    *,
    folder: Path = Path(),
    heartbeat: float | None = None,
    dead_after: float | None = None,
) -> Iterator[Lease]:
    """Hold the study for writing. A holder that died, or gave no sign of life for `dead_after` seconds, is taken over.

    `folder` is the home that the driver runs in, for the sentence that others read. Raises StudyError naming the holder.
    """
    dead_after = seconds_of(DEAD_AFTER_VARIABLE, DEAD_AFTER) if dead_after is None else dead_after
    heartbeat = min(HEARTBEAT, dead_after / 6) if heartbeat is None else heartbeat
    with database_errors(storage.url):
        lease = _take(storage, study_name, folder, dead_after)
    try:
        with alongside(partial(_keep, lease, heartbeat), "study lease"):
            yield lease
    finally:
        with suppress(*DATABASE_ERRORS):  # then the next driver sees that this process is gone
            lease.release()


def _take(storage: RDBStorage, study_name: str, folder: Path, dead_after: float) -> Lease:
    create_once(lambda: _TABLE.create(storage.engine, checkfirst=True))
    token = uuid.uuid4().hex
    ours = {
        "token": token,
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": os.getpid(),
        "process_started": _started(psutil.Process()),
        "folder": str(folder.resolve()),
        "heartbeat": func.now(),
    }
    while True:
        with storage.engine.begin() as connection:
            holder = _holder(connection, study_name)
        if holder is not None and not holder.is_dead(dead_after):
            raise StudyError(
                f"study {study_name!r} is being run by process {holder.process} on {holder.host} in {holder.folder!r} "
                f"(last sign of life {max(holder.age, 0):.0f} s ago); wait for it, stop it, or give another --name"
            )
        try:
            with storage.engine.begin() as connection:
                if holder is None:
                    connection.execute(insert(_TABLE).values(study_name=study_name, **ours))
                    taken = True
                else:  # of two that find it dead, one sees its token still there
                    dead = (_TABLE.c.study_name == study_name) & (_TABLE.c.token == holder.token)
                    taken = connection.execute(update(_TABLE).where(dead).values(**ours)).rowcount == 1
        except IntegrityError:  # another driver was faster
            taken = False
        if taken:
            return Lease(storage, study_name, token)


def _holder(connection: Connection, study_name: str) -> _Holder | None:
    names = ("token", "host", "machine", "process", "process_started", "folder", "heartbeat")
    columns = [_TABLE.c[name] for name in names]
    now = func.now(type_=DateTime(timezone=True)).label("now")
    row = connection.execute(select(*columns, now).where(_TABLE.c.study_name == study_name)).one_or_none()
    return None if row is None else _Holder(**row._mapping)


def _keep(lease: Lease, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds):
        try:
            lease.beat()
        except StudyError:  # lost: the next write says so
            return
        except DATABASE_ERRORS:  # a database that is away for a moment
            continue


def _machine() -> str:
    """The machine's start and the process numbers' scope (a container has its own), so that numbers are not confused."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _started(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: the time of day may be set anew meanwhile."""
    return float(process.create_time() - psutil.boot_time())


def _is_running(process: int, started: float) -> bool:
    try:
        there = psutil.Process(process)
        # Earlier versions wrote the time of day.
        is_same = abs(_started(there) - started) < 2 or abs(float(there.create_time()) - started) < 2
        return is_same and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
