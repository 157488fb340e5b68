"""Helper modules beside the tests can be imported by name; a finished study, made once; fork servers; a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy import event
from sqlalchemy.pool import Pool

from edgesearch.search import Study
from edgesearch.search.processes import ForkServer
from edgesearch.search.processes._fork_server import SHARED_VARIABLE

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "board_eval"))

STUDY = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
test_images = 40
[train]
epochs = 1
[finetune]
epochs = 1
[qat]
epochs = 1
[prune]
draws = 2
score_images = 50
recalibration_images = 50
[space]
students = ["cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
pruning = { method = "one_step", ratio = 0.5, granularity = 8 }
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
quantization = { method = "qat", start = "scratch" }
[[candidates]]
student = { architecture = "cnn_tiny", input_size = 8 }
quantization = { bits = 5 }
"""


@pytest.fixture(scope="session", autouse=True)
def shared_server() -> Iterator[None]:
    """One fork server for all, whose imports cost seconds; tests that look for its processes have their own."""
    with pytest.MonkeyPatch.context() as patch, closing(ForkServer(shared=True)) as server:  # nobody's child
        server.start()
        patch.setenv(SHARED_VARIABLE, server.name)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_history() -> Iterator[None]:
    """Optuna reads the files that tell how its tables came about once, not for each storage that a test opens."""
    create, made = _VersionManager._create_alembic_script, []

    def created(manager: _VersionManager) -> Any:
        made.extend(() if made else [create(manager)])
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", created)
        yield


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_home: Path, tiny_file: Path) -> Study:
    opened = Study.open(tiny_file, tiny_home)
    opened.optimize(4, workers=0)
    return opened


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


@pytest.fixture
def own_server(shared_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever needs a fork server starts its own, whose processes are below this one, as users' are."""
    monkeypatch.delenv(SHARED_VARIABLE)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its head runs no stages; nodes are added by the test."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    make: Any = Cluster  # without types
    made = make(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()
