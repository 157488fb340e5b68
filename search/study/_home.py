"""Where a user's studies, artifacts and logs live, and who may write a study."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgesearch.errors import StudyError


@dataclass(frozen=True)
class Home:
    """A folder: studies.db, store/, logs/STUDY/, locks/, reports/."""

    root: Path

    @property
    def store(self) -> Path:
        """The artifact store."""
        return self.root / "store"

    @property
    def database(self) -> str:
        """The default storage URL."""
        return f"sqlite:///{(self.root / 'studies.db').resolve()}"

    def logs(self, study: str) -> Path:
        """One log per stage attempt lies here."""
        return self.root / "logs" / study

    def report(self, study: str) -> Path:
        """The study's report."""
        return self.root / "reports" / f"{study}.html"

    def prepare(self) -> None:
        """Make the folders; raises StudyError when that is not possible."""
        try:
            for folder in (self.root, self.root / "locks", self.root / "reports"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--home {str(self.root)!r} cannot be written ({error.strerror}); name another folder") from error

    @contextmanager
    def lease(self, study: str) -> Iterator[None]:
        """Hold the study for writing. The lock ends with the process, however that ends.

        Raises StudyError when another process holds it.
        """
        path = self.root / "locks" / f"{study}.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise StudyError(
                    f"study {study!r} is being run by process {holder} already; wait for it, stop it, or give another --name"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def use_write_ahead_log(url: str) -> None:
    """Let readers (the dashboard, `pareto`) look at a SQLite study while it is written."""
    if url.startswith("sqlite:///"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
