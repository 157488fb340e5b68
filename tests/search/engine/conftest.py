"""A Ray cluster on this machine, and fork servers of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from edgesearch.search.engine._fork_server import SHARED_VARIABLE


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
