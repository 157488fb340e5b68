"""A cluster that is reached from outside, through the proxy beside its head."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from _training_jobs import finish, job, wait_for_ever

from edgesearch.errors import StudyError
from edgesearch.search.cluster import _client, _ray
from edgesearch.search.cluster._client import connected, refuse_silent
from edgesearch.search.cluster._ray import RayPool

pytestmark = pytest.mark.slow


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[psutil.Process, str]]:
    """A cluster of one node that runs stages: the process that has started its processes, and its address for those outside."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "3")  # instead of half a minute
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # as docs/cluster.md says
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ("--head", "--port=0", f"--ray-client-server-port={port}", "--node-ip-address=127.0.0.1")
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        *where,
        "--num-cpus=1",
        "--include-dashboard=false",
        "--block",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        process = psutil.Process(started.pid)
        yield process, f"ray://127.0.0.1:{port}"
        kill(process)


def kill(process: psutil.Process) -> None:
    """With all that it has started."""
    for one in (*process.children(recursive=True), process):
        with suppress(psutil.NoSuchProcess):
            one.kill()


#: What Ray says where the process that it started for a driver died at once.
FAILED = """Initialization failure from server:
Traceback (most recent call last):
  File "proxier.py", line 772, in Datapath
    raise RuntimeError(
RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs.
"""


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[bool]:
    """Let connections fail so often; what is left of the list are those that have not failed."""
    import ray

    init, left = ray.init, [True] * times

    def fail(**options: Any) -> Any:
        if left and left.pop():
            raise ConnectionAbortedError(FAILED)
        return init(**options)

    monkeypatch.setattr(ray, "init", fail)
    return left


def test_stages_run_from_outside_and_a_connection_that_is_lost_ends_in_one_sentence(
    tmp_path: Path, head: tuple[psutil.Process, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, address = head
    left = failing(monkeypatch, 1)  # a cluster that is busy may fail at times
    pool = RayPool(None, address=address)
    assert not left
    try:
        assert pool.slots == 1
        pool.submit(job(tmp_path / "short", epochs=1))
        assert finish(pool).outcome == "done"
        with pytest.raises(
            StudyError, match=r"^no node of the Ray cluster at ray://\S+ offers board:lab, .* or run the command"
        ):
            pool.submit(replace(job(tmp_path / "board", epochs=1), board={"name": "lab"}))
        pool.submit(job(tmp_path / "long", epochs=100_000))
        kill(process)
        lost = rf"^the connection to the Ray cluster at {address} is lost; nothing finished is lost"
        with pytest.raises(StudyError, match=lost):
            wait_for_ever(pool, 60)
        with pytest.raises(StudyError, match="is lost"):
            pool.submit(job(tmp_path / "next", epochs=1))
    finally:
        pool.close()


def test_a_cluster_that_never_starts_what_serves_a_driver_is_told_by_its_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    left = failing(monkeypatch, 3)
    monkeypatch.setattr(_ray, "refuse_silent", lambda address: None)
    with pytest.raises(
        StudyError,
        match=r"^--ray-address ray://head:10001 does not start: RuntimeError: Starting Ray client server failed\. See "
        r"ray_client_server_23000\.err for detailed logs; try --workers 0",
    ):
        RayPool(None, address="ray://head:10001")
    assert not left


def test_an_address_where_nobody_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayPool, "_begin", lambda pool: pytest.fail("Ray was asked"))
    monkeypatch.setattr(_client, "_ANSWERS_S", 0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", f"[::1]:{port}", "127.0.0.1:99999999", "head..local:6379"):
        told = rf"^nobody answers at --ray-address {re.escape(address)} \(.*\); start the cluster's head"
        with pytest.raises(StudyError, match=told):
            RayPool(None, address=address)


def test_addresses_that_somebody_answers_at_or_that_are_words_are_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for address in (f"127.0.0.1:{server.getsockname()[1]}", "auto", "local", "ray://named"):
            refuse_silent(address)


def test_a_head_that_is_being_started_is_waited_for() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        timer = threading.Timer(1.0, late.listen)
        timer.start()
        refuse_silent(f"127.0.0.1:{late.getsockname()[1]}")
        timer.join()


def test_only_a_lost_connection_to_a_cluster_outside_is_told_as_one() -> None:
    with pytest.raises(ConnectionError, match="refused"), connected("auto"):
        raise ConnectionError("refused")
    with pytest.raises(StudyError, match="of the study's own"), connected("ray://head:10001"):
        raise StudyError("of the study's own")
    with pytest.raises(StudyError, match="at ray://head:10001 is lost"), connected("ray://head:10001"):
        raise ConnectionError("Client is shutting down.")
