"""What databases raise, as sentences."""

from __future__ import annotations

import math
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from edgesearch.errors import StudyError

#: All that SQLAlchemy, Optuna on top of it and SQLite below it raise when a database does not do its work.
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError, sqlite3.Error)
#: The same of one that is read, whose file may be another user's.
READING_ERRORS = (*DATABASE_ERRORS, PermissionError)
#: A file system with fewer free bytes is full: SQLite then calls many of its errors by other names.
_ROOM = 1 << 16
#: A password in a URL's authority, as SQLAlchemy reads it, or behind a key of its query that holds one or names the file of
#: one (libpq's, and `passwd` of MySQL's drivers).
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*(?=@)|([?&](?:password|passfile|sslpassword|passwd)=)[^&]*", re.IGNORECASE)


def parse_url(url: str) -> URL:
    """The parts of a database's URL; raises StudyError for what is none."""
    if not isinstance(url, str):
        raise StudyError(f"`storage` is of type {type(url).__name__}, expected a database's URL")
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is no number is a ValueError
        raise StudyError(
            f"--storage {shown_url(url)!r} is not a database URL; expected one such as sqlite:///runs/studies.db"
        ) from error


def absolute_url(url: str) -> str:
    """The URL; that of an SQLite file beside the working folder with its whole path, should that folder change.

    Raises StudyError for what is no URL.
    """
    parsed = parse_url(url)
    file = parsed.database or ":memory:"
    if parsed.get_backend_name() != "sqlite" or file == ":memory:" or file.startswith("file:"):
        return url
    return parsed.set(database=str(Path(file).absolute())).render_as_string(hide_password=False)


def shown_url(url: str) -> str:
    """The URL without its password, in its authority or its query; that of an SQLite file with its path as it is."""
    shown = _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", url)
    return unquote(shown) if shown.startswith("sqlite") else shown


def holds_password(text: str) -> bool:
    """Whether it is a URL with a password in its authority or query."""
    return _PASSWORD.search(text) is not None


def driver_hint(url: str) -> str:
    """How to install what connects to this kind of database."""
    parsed = make_url(url)
    return {"postgresql": "pip install 'edgesearch[postgresql]'"}.get(
        parsed.get_backend_name(), f"install {parsed.drivername}'s package"
    )


def database_reason(error: BaseException) -> str:
    """The database's own words for an error, in one line: of the driver's error, below SQLAlchemy's and Optuna's."""
    while error.__cause__ is not None and isinstance(error, StorageInternalError):
        error = error.__cause__
    lines = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_full(error: BaseException, url: str) -> bool:
    """Whether the disk below the database has no room: by its own words, or for a SQLite file by the room there is."""
    words = database_reason(error).lower()
    return "full" in words or "no space" in words or _room(url) < _ROOM


def _room(url: str) -> float:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return math.inf
    try:
        return shutil.disk_usage(Path(parsed.database).absolute().parent).free
    except OSError:
        return math.inf


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turn what the database raises while a study runs into StudyError, which says that nothing finished is lost."""
    try:
        yield
    except DATABASE_ERRORS as error:
        reason = database_reason(error)
        if is_full(error, url) and "full" not in reason:
            reason = f"its disk is full ({reason})"
        raise StudyError(
            f"the database {shown_url(url)} does not take the study's results: {reason}; "
            "what was finished is kept: mend it and give the same command again"
        ) from error


@contextmanager
def reading_errors(url: str) -> Iterator[None]:
    """Turn what the database raises while a study is read into StudyError."""
    try:
        yield
    except READING_ERRORS as error:
        reason = "its disk is full" if is_full(error, url) else database_reason(error)
        raise StudyError(f"the database {shown_url(url)} cannot be read: {reason}; mend it and try again") from error


def seconds_of(variable: str, default: float) -> float:
    """The seconds that an environment variable names, or the default; raises StudyError for what is no number of seconds."""
    text = os.environ.get(variable, "")
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise StudyError(f"{variable} = {text!r} is no number of seconds; give one above 0, or unset it")
    return seconds
