"""Two drivers that make the same tables at the same time."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb import models
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from edgesearch.errors import StudyError
from edgesearch.search.study import hold_lease, open_storage
from edgesearch.search.study._creation import create_once
from edgesearch.search.study._lease import _TABLE


@contextmanager
def before_making(table: Any, other: Callable[[], object]) -> Iterator[list[str]]:
    """Another driver acts once, after it was seen that the table is missing and before it is made."""
    acted: list[str] = []

    def act(target: Any, connection: Any, **_: Any) -> None:
        if not acted:
            acted.append(target.name)
            other()

    event.listen(table, "before_create", act)
    yield acted
    event.remove(table, "before_create", act)


def test_a_driver_that_is_late_with_the_lease_is_told_who_holds_the_study(database: str) -> None:
    storage, name = open_storage(database), uuid.uuid4().hex
    with storage.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS edgesearch_leases"))
    holder = hold_lease(open_storage(database), name, folder=Path("/some/home"))
    with (
        before_making(_TABLE, holder.__enter__) as acted,
        pytest.raises(StudyError, match=r"is being run by process \d+ on .* in '/some/home'"),
        hold_lease(storage, name),
    ):
        pass
    holder.__exit__(None, None, None)
    assert acted == ["edgesearch_leases"]


def test_a_database_that_another_driver_opens_first_is_opened_by_both(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    with before_making(models.StudyModel.__table__, lambda: open_storage(url).engine.dispose()) as acted:
        open_storage(url).engine.dispose()
    assert acted == ["studies"]


def test_what_else_a_database_refuses_is_tried_once() -> None:
    engine, tries = create_engine("sqlite://", poolclass=NullPool), []

    def create() -> None:
        tries.append(1)
        with engine.begin() as connection:
            connection.execute(text("CREATE nonsense"))

    with pytest.raises(OperationalError, match="syntax error"):
        create_once(create)
    assert len(tries) == 1
