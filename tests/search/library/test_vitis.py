"""Studies that name Vitis AI's packages: asked for before anything is trained, and gone on with once they are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgesearch.errors import ToolchainMissing
from edgesearch.search import Study
from edgesearch.search.commands._cli import run
from edgesearch.search.library._inputs import check_vitis
from edgesearch.search.study import StudyFile

STANDIN = Path(__file__).parents[2] / "objectives" / "vitis" / "standin"
STUDY = """
name = "vendor"
[data]
name = "digits"
train_images = 200
validation_images = 100
calibration_images = 16
test_images = 50
[train]
epochs = 1
[space]
students = ["mlp"]
input_size = [8]
{space}
[vitis]
python = "{python}"
engine = "none"
"""


def study(folder: Path, space: str, python: str) -> Path:
    path = folder / "vendor.toml"
    path.write_text(STUDY.format(space=space, python=python))
    return path


@pytest.mark.slow
def test_without_the_packages_nothing_is_trained_and_with_them_the_study_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = 'quantization_backend = ["nndct"]'
    command = ["optimize", str(study(tmp_path, space, sys.executable)), "--trials", "1", "--workers", "0"]
    home = ["--home", str(tmp_path / "home")]
    assert run([*command, *home]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("error:")
    assert "without pytorch_nndct" in said
    assert "\n" not in said
    assert not list((tmp_path / "home").glob("**/artifact.json"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{STANDIN}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    study(tmp_path, space, str(python))
    assert run([*command, *home]) == 0
    said = capfd.readouterr().out
    assert "0 positions, 0 integers, 0 answers differ" in said
    (record,) = Study.load("vendor", tmp_path / "home").records()
    assert record.figure("vitis_accuracy") == record.accuracy
    assert "nndct" in record.recipe
    assert run([*command, *home]) == 0
    assert "made or measured otherwise" not in capfd.readouterr().err
    python.unlink()
    loaded = Study.load("vendor", tmp_path / "home")
    assert set(loaded.inputs.conditions.packages) == {"torch", "pytorch_nndct"}
    assert loaded.inputs.plan(record.candidate).key == record.artifacts["measured"]


@pytest.mark.parametrize(
    ("space", "asks"),
    [
        ('quantization_backend = ["edgesearch", "nndct"]', True),
        ('pruning = ["none", "one_step"]\npruning_backend = ["vai"]', True),
        ('pruning_backend = ["vai"]', False),
        ("", False),
    ],
)
def test_packages_are_asked_for_where_a_candidate_may_need_them(space: str, asks: bool, tmp_path: Path) -> None:
    settings = StudyFile.load(study(tmp_path, space, "/no/such/python"))  # type: ignore[arg-type]
    if asks:
        with pytest.raises(ToolchainMissing, match="/no/such/python"):
            check_vitis(settings)
    else:
        check_vitis(settings)
