"""Stages in children of a worker, each in one of its own or one after the other in the same; on the CPU: no GPU was at hand."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from _training_jobs import job, processes

from edgesearch.objectives import Store
from edgesearch.search.processes import _children
from edgesearch.search.processes._children import run_in_child
from edgesearch.search.processes._fork_server import SERVER_VARIABLE, ForkServer
from edgesearch.search.processes._jobs import run_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch, closing(ForkServer()) as server:
        server.start()
        patch.setenv(SERVER_VARIABLE, server.name)
        _children._of_this_worker.cache_clear()
        yield server
        process = _children._of_this_worker().process
        process.end()
        process._server.close()  # the one that took the place of one that was killed
        _children._of_this_worker.cache_clear()


@pytest.mark.parametrize(("own_process", "used"), [(True, 2), (False, 1)])
def test_a_stage_has_a_process_for_itself_where_that_is_asked_for(tmp_path: Path, own_process: bool, used: int) -> None:
    _children._of_this_worker().process.end()
    first, second = job(tmp_path / "a"), job(tmp_path / "a", width=1.0)
    for each in (first, second):
        assert run_in_child(asdict(each), own_process=own_process)["outcome"] == "done"
    were = set(processes(first.log))
    assert len(were) == used
    assert os.getpid() not in were
    assert [pid for pid in were if psutil.pid_exists(pid)] == ([] if own_process else list(were))

    here = job(tmp_path / "b")
    assert run_job(json.loads(json.dumps(asdict(here))))["outcome"] == "done"
    [(kind, key)] = Store(tmp_path / "b" / "store")
    ours, theirs = (Store(tmp_path / name / "store").get(kind, key) for name in ("a", "b"))
    assert ours is not None
    assert theirs is not None
    assert ours.file("weights").read_bytes() == theirs.file("weights").read_bytes()


def _begun(log: str) -> None:
    deadline = time.monotonic() + 300
    while not Path(log).exists() or "epoch 1/" not in Path(log).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("victim", "outcome", "message"),
    [
        ("stage", "lost", "the worker died (signal SIGKILL)"),
        ("server", "interrupted", "the worker died with the process that it was forked from"),
    ],
)
def test_a_process_that_dies_loses_its_stage_and_no_other(tmp_path: Path, victim: str, outcome: str, message: str) -> None:
    task = job(tmp_path, epochs=5000)

    def kill() -> None:
        _begun(task.log)
        child = processes(task.log)[-1]
        os.kill(child if victim == "stage" else psutil.Process(child).ppid(), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    answer = run_in_child(asdict(task), own_process=True)
    thread.join()
    assert (answer["key"], answer["outcome"], answer["message"]) == (task.key, outcome, message)
    assert run_in_child(asdict(job(tmp_path / "next")), own_process=True)["outcome"] == "done"
