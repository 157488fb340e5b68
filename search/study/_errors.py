"""What databases raise, as sentences."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from edgesearch.errors import StudyError

#: All that SQLAlchemy, Optuna on top of it and SQLite below it raise when a database does not do its work.
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError, sqlite3.Error)


def shown_url(url: str) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


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
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turn what the database raises while a study runs into StudyError, which says that nothing finished is lost."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise StudyError(
            f"the database {shown_url(url)} does not take the study's results: {database_reason(error)}; "
            "what was finished is kept: mend it and give the same command again"
        ) from error
