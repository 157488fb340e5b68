"""Pools with real workers, which are killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training_jobs import command, family, finish, job, name, processes, running

from edgesearch import objectives
from edgesearch.errors import DeviceError, StudyError, ToolchainError, ToolchainMissing
from edgesearch.objectives import Stage, Store
from edgesearch.search.cluster._ray import RayPool
from edgesearch.search.processes import _child, _kills
from edgesearch.search.processes._child import ChildPool
from edgesearch.search.processes._fork_server import ForkServer
from edgesearch.search.processes._jobs import NO_MEMORY, run_job


def test_a_childs_job_leaves_an_artifact_and_a_log(tmp_path: Path) -> None:
    pool = ChildPool()
    task = job(tmp_path)
    pool.submit(task)
    result = finish(pool)
    pool.close()
    assert (result.outcome, result.key) == ("done", task.key)
    assert Store(tmp_path / "store").has("student", task.key)
    assert "epoch 1/1" in Path(task.log).read_text()


def test_a_data_set_that_is_not_there_blocks_in_one_sentence(tmp_path: Path) -> None:
    task = job(tmp_path)
    missing = {**task.data, "name": "npz", "root": str(tmp_path / "missing.npz")}
    answer = run_job({**task.__dict__, "data": missing})
    assert answer["outcome"] == "blocked"
    assert "missing.npz" in answer["message"]


def test_a_stage_on_other_images_blocks(tmp_path: Path) -> None:
    task = job(tmp_path)
    stage = Stage.from_json({**task.stage, "data": {"train": "0" * 64}})
    answer = run_job({**task.__dict__, "stage": stage.to_json()})
    assert answer["outcome"] == "blocked"
    assert "changed" in answer["message"]


def interpreters() -> list[psutil.Process]:
    """The processes that stages run in."""
    return [child for child in family() if name(child) == "run_job"]


@pytest.mark.usefixtures("own_server")
def test_a_child_that_crashes_is_reported_as_lost_and_the_next_job_runs(tmp_path: Path) -> None:
    pool = ChildPool()
    try:
        running(pool, tmp_path)
        (child,) = interpreters()
        child.send_signal(signal.SIGSEGV)
        lost = finish(pool)
        assert (lost.outcome, lost.message) == ("lost", "the worker died (signal SIGSEGV)")
        pool.submit(job(tmp_path, width=1.0))
        assert finish(pool).outcome == "done"
    finally:
        pool.close()
    assert interpreters() == []


@pytest.mark.usefixtures("own_server")
def test_a_child_that_linux_ended_for_want_of_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = tmp_path / "vmstat"
    kills.write_text("nr_free_pages 81\noom_kill 3\n")
    monkeypatch.setattr(_kills, "_COUNTERS", kills)
    pool = ChildPool()
    try:
        running(pool, tmp_path)
        kills.write_text("nr_free_pages 80\noom_kill 4\n")
        interpreters()[0].kill()
        ended = finish(pool)
        assert (ended.outcome, ended.message) == ("out_of_memory", NO_MEMORY)
        running(pool, tmp_path / "other")
        interpreters()[0].kill()  # by somebody else
        assert finish(pool).outcome == "lost"
    finally:
        pool.close()


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_a_stage_whose_arrays_do_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    monkeypatch.setattr(objectives, "run_stage", lambda *_, **__: (_ for _ in ()).throw(raised))
    answer = run_job(job(tmp_path).__dict__)
    assert (answer["outcome"], answer["message"]) == ("out_of_memory", NO_MEMORY)


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (DeviceError("device 'cuda' cannot be used here"), "lost"),
        (RuntimeError("CUDA error: unspecified launch failure"), "lost"),
        (ToolchainMissing("docker does not work (it has ended); start it"), "blocked"),
        (ToolchainError("_run_vitis.py failed: an operation that it does not know"), "refused"),
        (OSError(errno.EMFILE, "Too many open files"), "blocked"),
        (OSError(errno.ENOENT, "No such file or directory", "weights.npz"), "refused"),
    ],
)
def test_what_fails_for_the_machines_reasons_is_not_the_stages_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, outcome: str
) -> None:
    monkeypatch.setattr(objectives, "run_stage", lambda *_, **__: (_ for _ in ()).throw(raised))
    assert run_job(job(tmp_path).__dict__)["outcome"] == outcome


def test_code_of_the_users_own_that_ends_the_process_ends_its_stage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "run_stage", lambda *_, **__: sys.exit(9))
    answer = run_job(job(tmp_path).__dict__)
    assert (answer["outcome"], answer["message"]) == ("bug", "SystemExit: 9")


def test_memory_kills_are_counted_where_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kills, "_COUNTERS", tmp_path / "vmstat")
    assert _kills.memory_kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert _kills.memory_kills() == 3


def test_a_child_that_has_nothing_to_do_waits_as_long_as_it_may() -> None:
    pool, start = ChildPool(), time.monotonic()
    assert pool.wait(0.3) == []
    assert time.monotonic() - start >= 0.3


@pytest.mark.usefixtures("own_server")
def test_where_a_stage_crashed_is_in_its_log(tmp_path: Path) -> None:
    pool = ChildPool()
    try:
        task = running(pool, tmp_path)
        interpreters()[0].send_signal(signal.SIGSEGV)
        finish(pool)
    finally:
        pool.close()
    assert "Segmentation fault" in Path(task.log).read_text()
    assert "objectives/" in Path(task.log).read_text()


@pytest.mark.usefixtures("own_server")
def test_the_child_ends_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import json, sys, time
from edgesearch.search.processes._child import ChildPool
from edgesearch.search.processes._fork_server import ForkServer
from edgesearch.search.processes._jobs import Job
pool = ChildPool()
pool.submit(Job(**json.loads({json.dumps(json.dumps(asdict(job(tmp_path, epochs=5000))))!s})))
time.sleep(1000)
"""
    log = Path(job(tmp_path, epochs=5000).log)
    driver = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 300
    while not log.exists() or "epoch 1/" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ours = psutil.Process(driver.pid).children(recursive=True)
    assert processes(str(log))[-1] in [process.pid for process in ours]
    assert len(ours) == 2  # it, and what it was forked from
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(ours, timeout=20)[1] == []


def test_an_unwritable_disk_blocks_and_is_nobodys_fault(tmp_path: Path) -> None:
    task = job(tmp_path)
    (tmp_path / "file").write_text("")
    for change in ({"log": str(tmp_path / "file" / "x.log")}, {"store": str(tmp_path / "file" / "store")}):
        answer = run_job({**asdict(task), **change})
        assert answer["outcome"] == "blocked"
        assert "file" in answer["message"]


@pytest.mark.slow
def test_a_child_and_a_ray_worker_make_the_same_numbers(tmp_path: Path, ray_pool: RayPool) -> None:
    child = ChildPool()
    keys = []
    for folder, pool in ((tmp_path / "child", child), (tmp_path / "ray", ray_pool)):
        task = job(folder)
        pool.submit(task)
        assert finish(pool).outcome == "done"
        keys.append(task.key)
    child.close()
    weights = [next((tmp_path / name / "store" / "artifacts").rglob("*.safetensors")).read_bytes() for name in ("child", "ray")]
    assert keys[0] == keys[1]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("kind", ["child", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_worker_that_is_frozen_is_stopped_and_the_next_job_runs(tmp_path: Path, kind: str) -> None:
    pool = ChildPool(hang_s=20.0) if kind == "child" else RayPool(1, hang_s=20.0)
    try:
        task = running(pool, tmp_path)
        assert pool.wait(timeout=0.0) == []
        frozen = psutil.Process(processes(task.log)[-1])
        frozen.suspend()
        hung = finish(pool)
        assert (hung.key, hung.outcome) == (task.key, "hung")
        assert hung.message == "the worker gave no sign of life for 20.0 s and was stopped"
        assert psutil.wait_procs([frozen], timeout=60)[1] == []
        pool.submit(job(tmp_path, width=1.0))
        assert finish(pool).outcome == "done"
    finally:
        pool.close()


@pytest.mark.usefixtures("own_server")
def test_a_process_that_never_begins_its_job_hangs(tmp_path: Path) -> None:
    server = ForkServer()
    pool, patient = ChildPool(hang_s=3.0, server=server), ChildPool(server=server)
    try:
        patient.submit(job(tmp_path))
        assert finish(patient).outcome == "done"
        (frozen,) = [child for child in family() if name(child) == "fork_server"]
        frozen.suspend()
        task = job(tmp_path, width=1.0)
        pool.submit(task)
        assert finish(pool).outcome == "hung"
        frozen.resume()
        patient.submit(task)
        assert finish(patient).outcome == "done"
    finally:
        pool.close()
        patient.close()
        server.close()


def test_a_machine_that_starts_no_process_stops_the_study_and_blames_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(server: ForkServer, service: str) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(ForkServer, "connect", refuse)
    monkeypatch.setattr(_child, "_PAUSE_S", 0.01)
    pool, task = ChildPool(), job(tmp_path)
    for _ in range(5):
        pool.submit(task)
        assert finish(pool).outcome == "interrupted"
    pool.submit(task)
    with pytest.raises(StudyError, match=r"no process for stages starts .*too many processes.*the same command goes on"):
        finish(pool)
    pool.close()


@pytest.mark.slow
def test_a_worker_of_rays_that_is_frozen_is_stopped_once_its_stage_gives_no_sign_of_life(tmp_path: Path) -> None:
    pool = RayPool(1, hang_s=15.0)
    try:
        task = running(pool, tmp_path)
        (worker,) = [process for process in family() if name(process) == "ray::run_job"]
        worker.suspend()
        os.kill(processes(task.log)[-1], signal.SIGKILL)  # which nobody tells the pool
        assert finish(pool).outcome == "hung"
        assert psutil.wait_procs([worker], timeout=60)[1] == []
        pool.submit(job(tmp_path, width=1.0))
        assert finish(pool).outcome == "done"
    finally:
        pool.close()


WAITING = """
from threading import Event
from torch import nn
class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(64, num_classes)
    def forward(self, x):
        Event().wait()
"""


def test_a_stage_that_waits_for_what_does_not_come_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "waiting_net.py").write_text(WAITING)
    pool = ChildPool(hang_s=15.0)
    try:
        pool.submit(job(tmp_path, architecture="waiting_net:Net"))
        assert finish(pool).outcome == "hung"
        pool.submit(job(tmp_path))
        assert finish(pool).outcome == "done"
    finally:
        pool.close()


@pytest.fixture
def ray_pool() -> Iterator[RayPool]:
    pool = RayPool(1)
    yield pool
    pool.close()


@pytest.mark.slow
@pytest.mark.usefixtures("own_server")
@pytest.mark.parametrize(
    ("victim", "outcome"),
    [
        ("run_job", "lost"),
        ("ray::run_job", "lost"),
        ("raylet", "interrupted"),
        ("gcs_server", "interrupted"),
        ("fork_server", "interrupted"),
    ],
)
def test_rays_processes_are_killed_and_the_pool_goes_on(
    tmp_path: Path, victim: str, outcome: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    pool = RayPool(1)
    try:
        task = running(pool, tmp_path)
        victims = [process for process in family() if name(process) == victim]
        assert len(victims) == 1
        victims[0].kill()
        result = finish(pool)
        assert (result.key, result.outcome) == (task.key, outcome)
        pool.submit(job(tmp_path, width=1.0))
        assert finish(pool).outcome == "done"
    finally:
        pool.close()
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr() == ("", "")  # what Ray has to say of it is not for the user


@pytest.mark.slow
def test_a_ray_that_dies_as_it_starts_is_started_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RayPool(1)
    try:
        starts: list[int] = []
        init = pool._ray.init

        def dying(*arguments: Any, **options: Any) -> Any:
            starts.append(1)
            if len(starts) == 1:
                raise Exception("The current node timed out during startup.")
            return init(*arguments, **options)

        monkeypatch.setattr(pool._ray, "init", dying)
        pool._daemons["raylet"].kill()
        pool._daemons["raylet"].wait(10)
        pool.submit(job(tmp_path))
        assert finish(pool).outcome == "done"
        assert len(starts) == 2
        monkeypatch.setattr(pool._ray, "init", lambda *_, **__: (_ for _ in ()).throw(Exception("timed out")))
        with pytest.raises(StudyError, match="a local Ray does not start: timed out; try --workers 0"):
            pool._restart()
    finally:
        pool.close()


def test_a_local_instance_listens_to_this_machine_alone_and_asks_for_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # nobody asked for it
    environment = dict(os.environ)
    pool = RayPool(1)
    try:
        assert dict(os.environ) == environment
        running(pool, tmp_path)
        ours = {process.pid: process for process in (psutil.Process(), *family())}
        listeners = [
            connection.laddr.ip.removeprefix("::ffff:")
            for connection in psutil.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and connection.pid in ours
        ]
        assert len(listeners) >= 4
        assert set(listeners) == {"127.0.0.1"}
        worker = next(process for process in ours.values() if process.name() == "ray::run_job")
        assert worker.nice() == psutil.Process().nice()
        assert worker.environ()["RAY_AUTH_MODE"] == "token"
        assert len(worker.environ()["RAY_AUTH_TOKEN"]) == 64
        assert all("RAY_AUTH_TOKEN" not in " ".join(command(process)) for process in ours.values())
    finally:
        pool.close()
