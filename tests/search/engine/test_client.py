"""A cluster that is reached from outside, through the proxy beside its head."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from _training_jobs import finish, job, wait_for_ever

from edgesearch.errors import StudyError
from edgesearch.search.engine._client import connected
from edgesearch.search.engine._ray import RayPool

pytestmark = pytest.mark.slow


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[psutil.Process, str]]:
    """A cluster of one node that runs stages: the process that has started its processes, and its address for those outside."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "3")  # instead of half a minute
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


def test_stages_run_from_outside_and_a_connection_that_is_lost_ends_in_one_sentence(
    tmp_path: Path, head: tuple[psutil.Process, str]
) -> None:
    process, address = head
    pool = RayPool(None, address=address)
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


def test_only_a_lost_connection_to_a_cluster_outside_is_told_as_one() -> None:
    with pytest.raises(ConnectionError, match="refused"), connected("auto"):
        raise ConnectionError("refused")
    with pytest.raises(StudyError, match="of the study's own"), connected("ray://head:10001"):
        raise StudyError("of the study's own")
    with pytest.raises(StudyError, match="at ray://head:10001 is lost"), connected("ray://head:10001"):
        raise ConnectionError("Client is shutting down.")
