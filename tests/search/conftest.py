"""The helper modules beside the tests can be imported by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of an empty PostgreSQL database; the test is skipped where there is none."""
    from _databases import postgresql_server

    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database, of either kind. PostgreSQL's is shared by all tests: name studies apart."""
    sqlite = f"sqlite:///{tmp_path / 'studies.db'}"
    url = sqlite if request.param == "sqlite" else str(request.getfixturevalue("postgresql"))
    connections: list[Any] = []

    def keep(connection: Any, record: object) -> None:
        connections.append(connection)

    event.listen(Pool, "connect", keep)
    yield url
    event.remove(Pool, "connect", keep)
    for connection in connections:
        connection.close()
