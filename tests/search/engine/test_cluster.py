"""A Ray cluster of two nodes, one of which is killed under a training."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _training_jobs import DATA, job

from edgesearch.objectives import Stage, Store
from edgesearch.search.engine import StageEnd, StageRunner
from edgesearch.search.engine._ray import RayPool

pytestmark = pytest.mark.slow


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


def until(runner: StageRunner, is_over: Callable[[list[StageEnd]], bool], seconds: float = 600.0) -> list[StageEnd]:
    ends: list[StageEnd] = []
    deadline = time.monotonic() + seconds
    while not is_over(ends):
        assert time.monotonic() < deadline
        ends += runner.collect(timeout=0.25)
    return ends


def epochs(log: Path) -> list[int]:
    """The epochs that a log tells, in its order."""
    return [int(number) for number in re.findall(r"epoch (\d+)/", log.read_text())] if log.exists() else []


def test_a_training_whose_node_was_killed_goes_on_on_another_node(tmp_path: Path, cluster: Any) -> None:
    notes: list[str] = []
    stage = Stage.from_json(job(tmp_path, epochs=5000).stage)
    log = tmp_path / "logs" / f"student-{stage.key[:16]}.log"
    node = cluster.add_node(num_cpus=1)
    pool = RayPool(1, address=cluster.address)
    try:
        store = Store(tmp_path / "store")
        runner = StageRunner(store=store, pool=pool, data=DATA, logs=log.parent, note=notes.append)
        runner.start(stage)
        until(runner, lambda _: any((tmp_path / "store").rglob("last.safetensors")))  # a checkpoint
        cluster.add_node(num_cpus=1)
        cluster.remove_node(node, allow_graceful=False)  # SIGKILL to all its processes
        assert until(runner, lambda ends: bool(notes or ends)) == []
        died = "the node that it ran on died or is out of reach; it goes on from its last checkpoint"
        assert notes == [f"stage student {stage.key[:12]}: {died}"]
        before = epochs(log)
        assert runner.can_start(stage)
        runner.start(stage)
        until(runner, lambda _: len(epochs(log)) > len(before))
        first = epochs(log)[len(before)]
        assert 1 < first <= before[-1] + 1  # neither anew nor with a gap
    finally:
        pool.close()
