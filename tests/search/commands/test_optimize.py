"""What `edgesearch optimize` prints, in this process."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from edgesearch.search import Study, StudyFile
from edgesearch.search.commands import run
from edgesearch.search.library import _run as run_module
from edgesearch.search.report import describe_rejected
from edgesearch.search.study import Home, create_or_resume, open_storage

STUDY = """
name = "tiny"
[data]
name = "digits"
train_images = 120
validation_images = 100
calibration_images = 20
[train]
epochs = 1
[space]
students = ["cnn_tiny"]
width = [0.5, 1.0]
input_size = [8]
algorithm = ["vitis"]  # the quicker one
"""


def write(folder: Path, text: str, encoding: str = "utf-8") -> str:
    path = folder / "tiny.toml"
    path.write_text(text, encoding=encoding)
    return str(path)


def test_an_impossible_limit_is_told_with_the_nearest_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, STUDY + "[constraints]\nmin_fps = 1e6\n")
    home = tmp_path / "h"
    assert run(["optimize", file, "--dry-run", "--home", str(home)]) == 0
    dry = capsys.readouterr().out
    assert "in the store" not in dry
    assert not home.exists()
    assert run(["optimize", file, "--workers", "0", "--home", str(home)]) == 0
    real = capsys.readouterr().out
    for said in (dry, real):
        assert "every candidate is rejected before training; the nearest is cnn_tiny" in said
        assert "FPS at least 1e+06, expected " in said
    assert f"the nearest is {describe_rejected(Study.load(home=home).view().nearest_rejected)}; loosen" in real
    assert "edgesearch export" not in real
    assert f"next: edgesearch dashboard --study tiny --home {home}" in real


def test_data_beyond_the_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("large_data.py").write_text("import numpy\ndef load(settings, folder): numpy.zeros(2**50, numpy.uint8)\n")
    file = write(tmp_path, STUDY.replace('name = "digits"', 'name = "large_data:load"'))
    assert run(["optimize", file, "--dry-run", "--home", str(tmp_path / "h")]) == 2
    said = capsys.readouterr().err
    assert "error: this machine's memory was not enough: Unable to allocate 1.00 PiB" in said
    assert "large_data.py, line 2" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_results_do_not_take_the_place_of_a_study_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, home = write(tmp_path, STUDY), str(tmp_path / "h")
    assert run(["optimize", file, "--trials", "1", "--workers", "0", "--home", home]) == 0
    own = tmp_path / "study.toml"
    own.write_text(STUDY)
    assert run(["results", "--home", home, "-o", str(tmp_path)]) == 2
    assert "is a study of your own, whose place that of the results would take; name another folder" in capsys.readouterr().err
    assert own.read_text() == STUDY
    assert not (tmp_path / "results.json").exists()
    for _ in range(2):
        assert run(["results", "--home", home, "-o", str(tmp_path / "kept")]) == 0
    assert StudyFile.load(tmp_path / "kept" / "study.toml").to_json() == Study.load(home=home).settings.to_json()


@pytest.mark.parametrize(("option", "command"), [("--storage", "pareto"), ("--study", "pareto"), ("--store", "optimize")])
def test_an_empty_name_is_not_the_default(option: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, option, ""]) == 2
    assert f'error: {option}: "" names nothing; give a name, or leave it out' in capsys.readouterr().err


def test_options_are_checked_like_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, STUDY, encoding="utf-8-sig")  # with a byte-order mark, as some editors write one
    assert run(["optimize", file, "--dry-run", "--trials", "1", "--home", str(tmp_path / "h")]) == 0
    assert run(["optimize", file, "--name", "a b", "--home", str(tmp_path / "h")]) == 2
    error = capsys.readouterr().err
    assert "name = 'a b', expected letters, digits, dots, dashes and underscores, 64 at most" in error
    assert "Traceback" not in error
    assert run(["optimize", write(tmp_path, STUDY.replace("[8]", "[3]")), "--home", str(tmp_path / "h")]) == 2
    assert "input_size = 3, expected greater than or equal to 4" in capsys.readouterr().err
    assert not (tmp_path / "h").exists()


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, home = write(tmp_path, STUDY), Home(tmp_path / "h")
    home.prepare()
    study = create_or_resume(open_storage(home.database), Study.open(file, home.folder).settings)
    assert run(["optimize", file, "--seed", "7", "--dry-run", "--home", str(home.folder)]) == 0  # nothing was made of it yet
    candidate = {"student": {"architecture": "cnn_tiny"}}
    study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"candidate": candidate}))
    capsys.readouterr()
    assert run(["optimize", file, "--seed", "7", "--dry-run", "--home", str(home.folder)]) == 2
    assert "study 'tiny' was started with other settings (seed: was 0, is 7)" in capsys.readouterr().err
    assert run(["optimize", file, "--workers", "0", "--ray-address", "auto", "--dry-run", "--home", str(home.folder)]) == 2
    assert "workers = 0 runs stages without Ray, and ray_address = 'auto' is a cluster of it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_front_is_shown_though_the_database_has_gone_by_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "h"
    compile_front = run_module._compile_front

    def last(*arguments: Any) -> None:
        compile_front(*arguments)
        (home / "studies.db").rename(tmp_path / "elsewhere.db")

    monkeypatch.setattr(run_module, "_compile_front", last)
    assert run(["optimize", write(tmp_path, STUDY), "--workers", "0", "--trials", "1", "--home", str(home)]) == 0
    told = capsys.readouterr().out
    assert "1 trial finished now" in told
    assert "cnn_tiny" in told
    page = home / "reports" / "tiny.html"
    assert f"report: {page}" in told
    assert "cnn_tiny" in page.read_text()
    assert "edgesearch export" in told


@pytest.mark.slow
def test_failed_trials_are_tried_again_by_the_command_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, STUDY.replace("epochs = 1", 'epochs = 1\noptimizer = "sgd"\nlr = 1e30'))
    given = ["--trials", "1", "--name", "other", "--workers", "0", "--memory-per-stage", "2.0", "--board", "zcu104"]
    given += ["--board-wait", "3.0", "--hang-after", "7.0", "--store", str(tmp_path / "artifacts")]
    assert run(["optimize", file, "--home", str(tmp_path / "h h"), *given]) == 2
    said = capsys.readouterr().out
    assert "1 failed" in said
    command = said.partition("next: edgesearch ")[2].partition(", once what made its trials fail is mended")[0]
    assert shlex.split(command) == ["optimize", file, *given, "--retry-failed", "--home", str(tmp_path / "h h")]
    assert run(shlex.split(command)) == 2
    assert "1 failed" in capsys.readouterr().out
    assert [r.state for r in Study.load("other", home=tmp_path / "h h").records()] == ["FAIL", "FAIL"]


@pytest.mark.slow
def test_code_lies_beside_the_study_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "study" / "flower_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__(nn.Conv2d(in_channels, 8, 3), nn.Flatten(), nn.Linear(288, num_classes))\n"
    )
    file = write(tmp_path / "study", STUDY.replace('"cnn_tiny"', '"flower_nets:Net"').replace("[0.5, 1.0]", "[1.0]"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = list(sys.path)
    assert run(["optimize", file, "--workers", "0", "--trials", "1"]) == 0
    assert run(["export", "--knee", "-o", "out"]) == 0
    assert "Net_int.xmodel" in {p.name for p in (tmp_path / "elsewhere" / "out" / "trial-0000").iterdir()}
    assert sys.path == path
    assert "edgesearch export --study tiny --knee -o DIR" in capsys.readouterr().out
