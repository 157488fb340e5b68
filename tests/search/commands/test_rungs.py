"""Trainings that are stopped, through the command line, with real trainings in a process of their own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgesearch.objectives import Store
from edgesearch.search import Study
from edgesearch.search.commands import run

STUDY = """
name = "rungs"
[data]
name = "digits"
noise = 0.1
train_images = 200
validation_images = 200
calibration_images = 20
test_images = 20
[train]
epochs = 6
lr = 3e-4
[space]
students = ["mlp", "cnn_tiny"]
width = { low = 0.5, high = 4.0, step = 0.25 }
input_size = [8]
quantization = ["ptq"]
algorithm = ["vitis"]
[search]
startup_trials = 6
[[candidates]]
student = { architecture = "mlp", input_size = 8 }
quantization = { algorithm = "vitis" }
"""
TRIALS = 14


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """The command line handles SIGTERM; the tests' process does so no longer than the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_study_stops_trainings_and_every_command_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, home = tmp_path / "rungs.toml", str(tmp_path / "h")
    file.write_text(STUDY)
    optimize = ["optimize", str(file), "--workers", "0", "--trials", str(TRIALS), "--home", home]
    assert run([*optimize, "--dry-run"]) == 0
    assert "students may be stopped after 1 or 2 of 6 epochs" in capsys.readouterr().out
    assert run(optimize) == 0
    told = capsys.readouterr().out
    view = Study.load("rungs", home).view()
    counts = view.counts
    assert counts["PRUNED"] > 0
    assert counts["COMPLETE"] + counts["PRUNED"] == TRIALS
    assert f"{counts['PRUNED']} stopped early" in told
    reasons = [str(stopped["reason"]).partition(":")[0] for stopped in view_stopped(home)]
    assert all(reason in told for reason in reasons)
    assert any(reason in ("stopped after 1 of 6 epochs", "stopped after 2 of 6 epochs") for reason in reasons)
    assert run(["pareto", "--format", "json", "--home", home]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["PRUNED"] == counts["PRUNED"]
    assert run(["report", "--home", home]) == 0
    assert f"{counts['PRUNED']} stopped early" in (tmp_path / "h" / "reports" / "rungs.html").read_text()
    _is_bit_equal_without_rungs(tmp_path)


def view_stopped(home: str) -> list[dict[str, object]]:
    return [dict(record.stopped) for record in Study.load("rungs", home).view().records if record.state == "PRUNED"]


def _is_bit_equal_without_rungs(folder: Path) -> None:
    """What was trained in rungs is what another study trains in one go."""
    file = folder / "whole.toml"
    file.write_text(STUDY.replace("startup_trials", "rungs = false\nstartup_trials").replace('"rungs"', '"whole"'))
    Study.open(file, folder / "whole").optimize(2, workers=0)
    whole, climbed = Store(folder / "whole" / "store"), Store(folder / "h" / "store")
    shared = [key for kind, key in whole if kind == "student" and climbed.has("student", key)]
    assert shared
    for key in shared:
        one, other = whole.get("student", key), climbed.get("student", key)
        assert one is not None
        assert other is not None
        for name, value in one.tensors("weights").items():
            assert torch.equal(value, other.tensors("weights")[name])
