"""Whole drivers as processes: two of them on one database, and results that do not depend on the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from _training_jobs import name as name_of
from optuna.trial import TrialState

from edgesearch.search.processes._fork_server import SHARED_VARIABLE
from edgesearch.search.study import open_storage, open_study
from edgesearch.search.study._lease import _holder

TEXT = """
name = "NAME"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 2
[space]
students = ["mlp", "cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
"""


class Driver:
    """`edgesearch optimize` on one study, in a home of its own; with a fork server of its own, if its worker is looked for."""

    def __init__(
        self, home: Path, name: str, url: str | None, workers: int, *, owns_server: bool = False, **environment: str
    ) -> None:
        home.mkdir(exist_ok=True)
        file = home / "study.toml"
        file.write_text(TEXT.replace("NAME", name))
        line = [sys.executable, "-m", "edgesearch.search", "optimize", str(file), "--home", str(home)]
        line += ["--workers", str(workers), "--trials", "4", *(["--storage", url] if url else [])]
        inherited = {key: value for key, value in os.environ.items() if not (owns_server and key == SHARED_VARIABLE)}
        self.process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**inherited, **environment}
        )

    def wait_for(self, text: str) -> None:
        """Read its output until a line has the text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"the driver ended before it said {text!r}")

    def worker(self) -> psutil.Process:
        """The process that its stages run in."""
        (found,) = [child for child in psutil.Process(self.process.pid).children(recursive=True) if name_of(child) == "run_job"]
        return found

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=400)
        return self.process.returncode, output


@pytest.mark.slow
def test_two_drivers_with_two_homes_on_one_database(tmp_path: Path, database: str) -> None:
    """The second is refused while the first lives, and goes on with its trials, not lost and not doubled, once it is killed."""
    name = f"two-{uuid.uuid4().hex[:8]}"
    first = Driver(tmp_path / "a", name, database, 0, owns_server=True)
    first.wait_for("[1/4]")
    worker = first.worker()
    worker.suspend()  # the driver is alive, and waits for its stage for as long as this test needs
    code, output = Driver(tmp_path / "b", name, database, 0).end()
    assert code == 2
    assert f"process {first.process.pid} on" in output
    assert str(tmp_path / "a") in output
    first.process.send_signal(signal.SIGKILL)
    worker.resume()
    first.end()
    code, output = Driver(tmp_path / "b", name, database, 0).end()
    assert code == 0, output
    trials = open_study(open_storage(database), name).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert len({trial.user_attrs["candidate_key"] for trial in trials}) == 4


@pytest.mark.slow
def test_a_frozen_driver_is_taken_over_and_stops_before_it_writes(tmp_path: Path, database: str) -> None:
    """The second is refused until the lease expired; the first, woken, finds its study in other hands and leaves it there."""
    name = f"frozen-{uuid.uuid4().hex[:8]}"
    lease = {"EDGESEARCH_LEASE_S": "20"}
    first = Driver(tmp_path / "a", name, database, 0, owns_server=True, **lease)
    first.wait_for("[1/4]")
    worker = first.worker()
    worker.suspend()
    time.sleep(3)  # it waits for its stage now, and is frozen in no transaction, which would lock the file
    first.process.send_signal(signal.SIGSTOP)
    with database_age(database, name) as age:
        while age() < 21:
            time.sleep(1)
    code, output = Driver(tmp_path / "b", name, database, 0, **lease).end()
    assert code == 0, output
    ended = open_study(open_storage(database), name).get_trials()
    first.process.send_signal(signal.SIGCONT)
    worker.resume()
    code, output = first.end()
    assert code == 2, output
    assert "another process took study" in output
    assert "Traceback" not in output
    trials = open_study(open_storage(database), name).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert [trial.datetime_complete for trial in trials] == [trial.datetime_complete for trial in ended]
    assert len({trial.user_attrs["candidate_key"] for trial in trials}) == 4


@contextmanager
def database_age(url: str, name: str) -> Iterator[Callable[[], float]]:
    """Seconds since the holder of the study's lease gave a sign of life, by the database's clock."""
    storage = open_storage(url)

    def age() -> float:
        with storage.engine.connect() as connection:
            holder = _holder(connection, name)
        assert holder is not None
        return holder.age

    yield age
    storage.engine.dispose()


@pytest.mark.slow
def test_results_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    """Trained in a child process, or in two Ray workers: the same weights, to the last bit."""
    weights = []
    for workers in (0, 2):
        home = tmp_path / str(workers)
        code, output = Driver(home, "same", None, workers).end()
        assert code == 0, output
        files = sorted((home / "store" / "artifacts" / "student").rglob("*.safetensors"))
        weights.append({str(file.relative_to(home)): file.read_bytes() for file in files})
    assert len(weights[0]) == 4
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ctrl_c_ends_the_driver_and_its_worker(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "a", "stop", None, 0, owns_server=True)
    driver.wait_for("[1/4]")
    started = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    code, output = driver.end()
    assert (code, time.monotonic() - started < 30) == (130, True)
    assert "goes on from here" in output


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_driver_with_a_sentence(tmp_path: Path) -> None:
    """Whatever it was that found no room: the database, the store, a log. With room, the same command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code, output = Driver(disk / "home", "full", None, 0).end()
        assert code == 2, output
        assert "Traceback" not in output
        assert "full" in output or "No space" in output
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        code, output = Driver(disk / "home", "full", None, 0).end()
        assert code == 0, output
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
