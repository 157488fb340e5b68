"""Whole drivers as processes: two of them on one database, and results that do not depend on the workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from edgesearch.search.study import open_storage, open_study

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
"""


class Driver:
    """`edgesearch optimize` on one study, in a home of its own."""

    def __init__(self, home: Path, name: str, url: str | None, workers: int, trials: int = 4) -> None:
        home.mkdir(exist_ok=True)
        file = home / "study.toml"
        file.write_text(TEXT.replace("NAME", name))
        line = [sys.executable, "-m", "edgesearch.search", "optimize", str(file), "--home", str(home)]
        line += ["--workers", str(workers), "--trials", str(trials), *(["--storage", url] if url else [])]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=400)
        return self.process.returncode, output


@pytest.mark.slow
def test_two_drivers_with_two_homes_on_one_database(tmp_path: Path, database: str) -> None:
    """The second is refused while the first lives, and goes on with its trials, not lost and not doubled, once it is killed."""
    name = f"two-{uuid.uuid4().hex[:8]}"
    first = Driver(tmp_path / "a", name, database, 0)
    while "[1/4]" not in (line := first.process.stdout.readline() if first.process.stdout else ""):
        assert line, "the first driver ended"
    (worker,) = psutil.Process(first.process.pid).children()
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
    driver = Driver(tmp_path / "a", "stop", None, 0, trials=4)
    while "[1/4]" not in (line := driver.process.stdout.readline() if driver.process.stdout else ""):
        assert line, "the driver ended"
    started = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    code, output = driver.end()
    assert (code, time.monotonic() - started < 30) == (130, True)
    assert "goes on from here" in output
