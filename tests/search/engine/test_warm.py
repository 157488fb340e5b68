"""Stages in processes of their own, on the CPU: a GPU was not at hand."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from _training_jobs import job

from edgesearch.objectives import Store
from edgesearch.search.engine import _warm
from edgesearch.search.engine._jobs import run_job
from edgesearch.search.engine._warm import run_warm

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    _warm._stop()


def processes(log: str) -> list[int]:
    return [int(found) for found in re.findall(r" in process (\d+)", Path(log).read_text())]


def test_each_stage_has_a_process_and_imports_are_paid_once(tmp_path: Path) -> None:
    first, second = job(tmp_path / "a"), job(tmp_path / "a", width=1.0)
    assert run_warm(asdict(first))["outcome"] == "done"
    parent = _warm._running()
    assert run_warm(asdict(second))["outcome"] == "done"
    assert _warm._running() is parent
    used = processes(first.log)
    assert len(set(used)) == 2
    assert not {parent.pid, os.getpid()} & set(used)

    here = job(tmp_path / "b")
    assert run_job(json.loads(json.dumps(asdict(here))))["outcome"] == "done"
    [(kind, key)] = Store(tmp_path / "b" / "store")
    ours, theirs = (Store(tmp_path / name / "store").get(kind, key) for name in ("a", "b"))
    assert ours is not None
    assert theirs is not None
    assert ours.file("weights").read_bytes() == theirs.file("weights").read_bytes()


def test_a_process_that_dies_loses_its_stage_and_no_other(tmp_path: Path) -> None:
    task = job(tmp_path, epochs=5000)

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not Path(task.log).exists() or "epoch 1/" not in Path(task.log).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(processes(task.log)[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    answer = run_warm(asdict(task))
    thread.join()
    assert (answer["outcome"], answer["message"]) == ("lost", "the stage's process died (signal SIGKILL)")
    assert answer["key"] == task.key
    parent = _warm._running()
    parent.kill()  # and so may the one that forks them
    parent.wait()
    assert run_warm(asdict(job(tmp_path / "next")))["outcome"] == "done"


def test_nothing_is_left_when_the_worker_goes(tmp_path: Path) -> None:
    task = job(tmp_path, epochs=5000)
    parent = _warm._running()
    line = json.dumps({"job": asdict(task), "environment": {}}).encode() + b"\n"
    assert parent.stdin is not None
    parent.stdin.write(line)
    parent.stdin.flush()
    deadline = time.monotonic() + 300
    while not Path(task.log).exists() or "epoch 1/" not in Path(task.log).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(processes(task.log)[-1])
    parent.stdin.close()
    assert psutil.wait_procs([child, psutil.Process(parent.pid)], timeout=30)[1] == []
