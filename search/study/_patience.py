"""A database that is away for a while: its server starts again, another program locks its file, a network is down."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from edgesearch.search.study._duration import duration
from edgesearch.search.study._errors import DATABASE_ERRORS, database_reason, is_full, seconds_of, shown_url

#: Seconds for which the driver waits for a database that is away; the variable says another number.
PATIENCE, PATIENCE_VARIABLE = 120.0, "EDGESEARCH_DATABASE_WAIT_S"
#: Seconds between two attempts.
_PAUSE = 1.0

T = TypeVar("T")


class Patience:
    """Runs transactions, and runs one again for as long as the database may come back.

    `say` is told once in a wait what is waited for. `seconds`: how long; None: as the environment says, else PATIENCE.
    """

    def __init__(self, storage: RDBStorage, say: Callable[[str], None], seconds: float | None = None) -> None:
        self._storage, self._say = storage, say
        self._seconds = seconds_of(PATIENCE_VARIABLE, PATIENCE) if seconds is None else seconds
        self._place = _Place.of(storage.url)

    def run(self, work: Callable[[Connection, bool], T]) -> T:
        """What `work` returns, which is called with a connection, in a transaction of its own, and whether it was before.

        It may have been done then although that was not heard. Raises what the database raises once it was waited for.
        """
        until: float | None = None
        while True:
            try:
                with self._storage.engine.begin() as connection:
                    result = work(connection, until is not None)
                    self._place.check()
                return result
            except DATABASE_ERRORS as error:
                if not _may_pass(error, self._storage.url):
                    raise
                if until is None:
                    until = time.monotonic() + self._seconds
                    self._say(
                        f"the database {shown_url(self._storage.url)} does not answer ({database_reason(error)}); "
                        f"waiting for it, {duration(self._seconds)} at most"
                    )
                elif time.monotonic() > until:
                    raise
                time.sleep(min(_PAUSE, self._seconds / 10))


def _may_pass(error: BaseException, url: str) -> bool:
    """Whether the database is away, and not merely at odds with what it was given; one that is full does not come back."""
    while error.__cause__ is not None and isinstance(error, StorageInternalError):
        error = error.__cause__
    away = isinstance(error, OperationalError | InterfaceError | sqlite3.OperationalError)
    cut_off = isinstance(error, DBAPIError) and error.connection_invalidated
    return (away or cut_off) and not is_full(error, url)


class _Place:
    """The file of a SQLite database, which its program goes on writing after it was removed, for nobody to read."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._identity = self._look()

    @classmethod
    def of(cls, url: str) -> _Place:
        """The file behind the URL, if there is one."""
        parsed = make_url(url)
        return cls(Path(parsed.database).absolute() if parsed.get_backend_name() == "sqlite" and parsed.database else None)

    def check(self) -> None:
        """Raise sqlite3.OperationalError unless the file is there, and the one that it was."""
        if self._file is not None and (now := self._look()) != self._identity:
            what = "was removed" if now is None else "was replaced by another"
            raise sqlite3.OperationalError(f"its file {what}")

    def _look(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_dev, status.st_ino
