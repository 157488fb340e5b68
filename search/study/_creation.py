"""Tables that several drivers make at the same time, in a database that has none yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import IntegrityError

from edgesearch.search.study._errors import DATABASE_ERRORS, database_reason

__all__ = ["create_once"]

#: Every attempt finds one table more that another driver has made, and a study's database has fewer.
_ATTEMPTS = 32
#: Seconds for another driver to come to the end of what it makes.
_PAUSE = 0.05
#: SQLSTATE of a table, and of a type, that are there.
_THERE = ("42P07", "42710")

T = TypeVar("T")


def create_once(create: Callable[[], T]) -> T:
    """What `create` returns, which makes tables where they are missing; called again where another driver was faster with one.

    It looks first and then makes, so that between both another can make the same.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return create()
        except DATABASE_ERRORS as error:
            if not _was_late(error):
                raise
            time.sleep(_PAUSE)
    return create()


def _was_late(error: BaseException) -> bool:
    """Whether what was to be made is there by now."""
    words = database_reason(error)
    while error.__cause__ is not None and isinstance(error, StorageInternalError):
        error = error.__cause__
    is_there = getattr(getattr(error, "orig", None), "sqlstate", None) in _THERE or "already exists" in words
    return is_there or isinstance(error, IntegrityError)  # PostgreSQL's, of the row in its own catalogue
