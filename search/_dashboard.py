"""`edgesearch dashboard`: optuna-dashboard on a copy of the study, so that nothing done there can touch the study itself."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import optuna

from edgesearch.errors import StudyError

_HOST = "127.0.0.1"
#: Seconds between two looks at the study by a dashboard on SQLite.
_REFRESH = 5.0


def serve_dashboard(url: str, study_name: str, *, port: int) -> None:
    """Serve until interrupted, to this machine only. Raises StudyError when the port is taken.

    A SQLite study is copied with SQLite's own backup, which a running study does not notice, and copied again as it grows.
    Another database is read directly; give the dashboard a role that may only read there.
    """
    _check_port(port)
    with _snapshot(url) as shown:
        from optuna_dashboard import run_server

        click.echo(f"study {study_name}: http://{_HOST}:{port}/dashboard  (Ctrl-C stops it)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_server(shown, host=_HOST, port=port)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise StudyError(f"port {port} is taken or not allowed ({error.strerror}); give another --port") from error


@contextlib.contextmanager
def _snapshot(url: str) -> Iterator[optuna.storages.BaseStorage]:
    """The storage to show: a copy that follows a SQLite file, or the storage itself."""
    if not url.startswith("sqlite:///"):
        yield optuna.storages.RDBStorage(url)
        return
    source = Path(url.removeprefix("sqlite:///"))
    with tempfile.TemporaryDirectory(prefix="edgesearch-dashboard-") as folder:
        copy = Path(folder) / "studies.db"
        copy_database(source, copy)
        stop = threading.Event()
        thread = threading.Thread(target=_follow, args=(source, copy, stop), daemon=True)
        thread.start()
        try:
            yield optuna.storages.RDBStorage(f"sqlite:///{copy}")
        finally:
            stop.set()
            thread.join()


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite database, also while it is written; the source is opened for reading only."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as read,
        contextlib.closing(sqlite3.connect(target)) as write,
    ):
        read.backup(write)


def _follow(source: Path, target: Path, stop: threading.Event) -> None:
    seen = _changed(source)
    while not stop.wait(_REFRESH):
        now = _changed(source)
        if now != seen:
            with contextlib.suppress(sqlite3.Error):  # a reader of the copy is in the way: next time
                copy_database(source, target)
                seen = now


def _changed(source: Path) -> tuple[float, ...]:
    """Moments of the last writes: to the database, and to its write-ahead log."""
    files = (source, source.with_name(source.name + "-wal"))
    return tuple(file.stat().st_mtime for file in files if file.exists())
