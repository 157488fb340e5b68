"""`edgesearch tune` on the command line: what it refuses, and one recipe tuned with Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesearch.objectives import Store
from edgesearch.search import StudyFile
from edgesearch.search.commands import run
from edgesearch.search.library._inputs import read_inputs
from edgesearch.search.library._tune_space import Target

STUDY = """\
# digits, quickly
name = "tiny"
seed = 2                # of the five recipes tried, one has ten times the learning rate
[data]
name = "digits"
train_images = 1000
validation_images = 200
calibration_images = 20
[teacher]
architecture = "cnn_tiny"
width = 2.0
input_size = 8
recipe = { epochs = 2, lr = 2e-3 }
[train]
epochs = 3
lr = 1e-4               # much too low
[space]
students = ["cnn_tiny"]
input_size = [8]
distillation = ["none", "logit"]
"""


def write(folder: Path, text: str = STUDY) -> str:
    path = folder / "tiny.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet99"], "study 'tiny' has no student 'resnet99'; expected teacher, cnn_tiny"),
        (["teacher", "--samples", "0"], "0 is not in the range x>=1"),
        (["teacher", "--minutes", "0"], "0 is not in the range x>0"),
        (["teacher", "--minutes", "nan"], "the time for the search is nan s; expected more than 0"),
        (["teacher", "-o", "nowhere/x.toml"], "there is no folder 'nowhere'"),
        (["teacher", "-o", "better"], "-o 'better' would be no study file to `optimize`; give a name that ends in .toml"),
        (
            ["teacher", "--gpus-per-stage", "0.00001"],
            "`gpus_per_stage` is 1e-05, expected 0, or a share of a GPU of at least 0.0001",
        ),
        (["teacher", "--gpus-per-stage", "nan"], "`gpus_per_stage` is nan, expected a finite number"),
        (["cnn_tiny", "--distillation", "nkd"], "'nkd' is not in the study's space"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, *options = arguments
    assert run(["tune", target, write(tmp_path), "--home", str(tmp_path / "h"), *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "h").exists()


def test_a_study_without_a_teacher_has_none_to_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = STUDY[: STUDY.index("[teacher]")] + STUDY[STUDY.index("[train]") :].replace('"none", "logit"', '"none"')
    assert run(["tune", "teacher", write(tmp_path, bare), "--home", str(tmp_path / "h")]) == 2
    assert "study 'tiny' has no [teacher] to tune; name one of its students: cnn_tiny" in capsys.readouterr().err


def test_a_file_that_is_there_is_refused_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    (tmp_path / "tiny_tuned.toml").write_text("mine")
    assert run(["tune", "teacher", file, "--home", str(tmp_path / "h")]) == 2
    assert "is there already; give -o another name, or --overwrite" in capsys.readouterr().err
    assert run(["tune", "teacher", file, "-o", file, "--overwrite", "--home", str(tmp_path / "h")]) == 2
    assert "is the study itself" in capsys.readouterr().err
    assert (tmp_path / "tiny_tuned.toml").read_text() == "mine"
    assert not (tmp_path / "h").exists()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: paths of Ray's sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_tuned_copy_trains_better_and_opens(tmp_path: Path, temporary: Path) -> None:
    file, home = write(tmp_path), tmp_path / "h"
    command = [sys.executable, "-m", "edgesearch.search", "tune", "cnn_tiny", file, "--home", str(home), "--workers", "1"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([*command, "--samples", "5"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "the file's own" in done.stdout
    assert "gain +" in done.stdout
    copy = tmp_path / "tiny_tuned.toml"
    assert f"next: edgesearch optimize {copy} --workers 1 --home {home}" in done.stdout
    assert "# much too low" in copy.read_text()
    assert tomllib.loads(copy.read_text())["name"] == "tiny_tuned"
    assert not [left for left in temporary.rglob("*") if left.name.startswith("edgesearch-tune")]
    assert not [left for left in home.rglob("*") if left.suffix in (".pkl", ".pickle")]
    # The copy's student is trained already: it is the stage that was tuned.
    inputs = read_inputs(StudyFile.load(copy), to_run=False)
    target = Target.find("cnn_tiny", inputs)
    assert target.own["lr"] > 1e-4
    store = Store(home / "store")
    artifact = store.get("student", target.stage(target.own).key)
    assert artifact is not None
    first = read_inputs(StudyFile.load(file), to_run=False)
    own = Target.find("cnn_tiny", first)
    before = store.get("student", own.stage(own.own).key)
    assert before is not None
    assert artifact.figures["accuracy"] > before.figures["accuracy"]
    assert len([kind for kind, _ in store if kind == "teacher"]) == 1
    again = subprocess.run(
        [*command, "--samples", "5", "--overwrite"], capture_output=True, text=True, env=environment, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "\n  recipe " not in f"\n{again.stderr}"  # nothing was trained again
    assert again.stdout == done.stdout
