"""A Ray cluster of several nodes: what they offer, what they must have, and nodes and heads that are killed."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training_jobs import DATA, finish, job, wait_for_ever
from safetensors import safe_open

from edgesearch.errors import StudyError
from edgesearch.objectives import Conditions, Pipeline, Stage, Store, load_data, plan
from edgesearch.search.cluster._ray import RayPool
from edgesearch.search.engine import StageEnd, StageRunner
from edgesearch.search.processes._child import ChildPool
from edgesearch.search.processes._jobs import Job
from edgesearch.spaces import Candidate, Student, complete

pytestmark = pytest.mark.slow


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


def kept(store: Path) -> int:
    """The epoch of the only checkpoint in a store."""
    (file,) = store.rglob("last.safetensors")
    with safe_open(file, framework="pt") as checkpoint:
        return int(json.loads(checkpoint.metadata()["meta"])["epoch"])


def test_a_training_whose_node_was_killed_goes_on_on_another_node(tmp_path: Path, cluster: Any) -> None:
    notes: list[str] = []
    stage = Stage.from_json(job(tmp_path, epochs=5000).stage)
    log, again = (tmp_path / "logs" / f"student-{stage.key[:16]}{retry}.log" for retry in ("", "-retry1"))
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
        told, done = len(epochs(log)), kept(tmp_path / "store")
        assert runner.can_start(stage)
        runner.start(stage)
        until(runner, lambda _: bool(epochs(again)))
        assert epochs(again)[0] == done + 1  # neither anew nor with a gap
        assert len(epochs(log)) == told
    finally:
        pool.close()


OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, channels, classes, width=1.0):
        super().__init__()
        layers = nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, classes)
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)
"""


def own_job(folder: Path, first: str = "") -> Job:
    """The training of a network of the user's own, whose module lies in a folder of its own."""
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "nets.py").write_text(first + OWN)
    pipeline = Pipeline.model_validate({"data": DATA.model_dump(), "train": {"epochs": 1}})
    student = complete(Student(architecture="nets:Net", input_size=8), folder=folder / "study")
    last = plan(Candidate(student=student), pipeline, Conditions(load_data(DATA).fingerprints))
    stage = next(stage for stage in last.walk() if stage.kind == "student")
    return replace(job(folder), stage=stage.to_json(), folder=str(folder / "study"))


def test_a_cluster_says_how_many_stages_it_takes_and_its_nodes_need_no_shared_disk(tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=2)
    with pytest.raises(StudyError, match=r"can run no stage: each is to have 1 CPU and 0\.5 GPU"):
        RayPool(None, address=cluster.address, gpus_per_job=0.5)
    many = RayPool(5, address=cluster.address)
    assert many.slots == 5  # as was asked for: stages beyond the cluster's room wait at Ray, whose autoscaler sees them
    many.close()
    pool = RayPool(None, address=cluster.address)
    try:
        assert pool.slots == 2
        task = own_job(tmp_path)
        assert pool._cluster is not None
        pool._cluster.arguments(task)
        for name in ("study", "logs"):  # a node that has neither the study's folder nor that of the logs
            (tmp_path / name).rename(tmp_path / f"not {name}")
        pool.submit(task)
        result = finish(pool)
        assert result.outcome == "done", result
        assert "epoch 1/1" in Path(task.log).read_text()
        assert "done in" in Path(task.log).read_text()
        cluster.add_node(num_cpus=1)
        deadline = time.monotonic() + 120
        while pool.slots != 3:
            assert time.monotonic() < deadline
            pool.wait(0.5)
    finally:
        pool.close()


def test_a_node_with_another_edgesearch_is_refused_by_its_address(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Ray puts the driver's folder before the node's path, and a source tree would speak for it
    other = tmp_path / "other" / "edgesearch-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: edgesearch\nVersion: 9.9\n")
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other.parent)})
    pool = RayPool(1, address=cluster.address)
    try:
        with pytest.raises(StudyError, match=r"node [\d.]+ of the Ray cluster has edgesearch 9\.9, and this machine has"):
            pool.submit(job(tmp_path))
    finally:
        pool.close()


def test_a_node_that_lacks_what_the_studys_code_imports_is_refused_before_a_stage_runs(tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1, env_vars={"EDGESEARCH_TEST_NODE": "bare"})
    task = own_job(tmp_path, "import os\n\nif 'EDGESEARCH_TEST_NODE' in os.environ:\n    import no_such_package\n")
    pool = RayPool(1, address=cluster.address)
    try:
        with pytest.raises(
            StudyError, match=r"node [\d.]+ of the Ray cluster cannot run the study's code: code 'nets:Net' .*no_such_package"
        ):
            pool.submit(task)
        assert not Path(task.log).exists()
    finally:
        pool.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_study_whose_head_vanishes_or_freezes_stops_and_goes_on_elsewhere(
    tmp_path: Path, cluster: Any, fault: signal.Signals
) -> None:
    cluster.add_node(num_cpus=1)
    pool = RayPool(1, address=cluster.address)
    task = job(tmp_path, epochs=100_000)
    try:
        pool.submit(task)
        deadline = time.monotonic() + 600
        while not epochs(Path(task.log)):
            assert time.monotonic() < deadline
            pool.wait(0.5)
        trainers = [child for child in psutil.Process().children(recursive=True) if child.name() == "ray::run_job"]
        assert len(trainers) == 1
        for name, process in cluster.head_node.all_processes.items():
            if name == "gcs_server" or fault == signal.SIGKILL:  # what freezes here is not this machine's own node
                for started in process:
                    started.process.send_signal(fault)
        with pytest.raises(StudyError, match=r"does not answer for 30 s .*the same command goes on from here"):
            wait_for_ever(pool, 90)
    finally:
        started_to_close = time.monotonic()
        pool.close()
    assert time.monotonic() - started_to_close < 20
    for process in cluster.head_node.all_processes.values():
        for started in process:
            started.process.kill()
    cluster.shutdown()
    assert psutil.wait_procs(trainers, timeout=60)[1] == []  # what trains there ends with its node, and not at once
    done = kept(tmp_path / "store")
    again = ChildPool()
    try:
        again.submit(replace(task, log=f"{task.log}.2"))
        deadline = time.monotonic() + 120
        while not epochs(Path(f"{task.log}.2")):
            assert time.monotonic() < deadline
            again.wait(0.5)
        assert epochs(Path(f"{task.log}.2"))[0] == done + 1  # neither anew nor with a gap
    finally:
        again.close()
