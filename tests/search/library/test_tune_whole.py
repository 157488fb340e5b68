"""The whole of a tuning in this process: the search is a plain loop in Ray Tune's place, stages run in line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _inline import InlinePool

from edgesearch.errors import StudyError
from edgesearch.objectives import Store
from edgesearch.search import StudyFile, TunedRecipe, tune
from edgesearch.search.commands import run
from edgesearch.search.library import _tune
from edgesearch.search.library._inputs import read_inputs
from edgesearch.search.library._tune_journal import Journal
from edgesearch.search.library._tune_search import Watch
from edgesearch.search.library._tune_space import Target
from edgesearch.search.library._tune_training import Task, Training

STUDY = """\
name = "tiny"
[data]
name = "digits"
train_images = 800
validation_images = 200
calibration_images = 20
[train]
epochs = 3
lr = 1e-4               # much too low
augmentation = "none"
[space]
students = ["cnn_tiny"]
input_size = [8]
"""


def loop(*factors: float) -> Callable[..., None]:
    """A search that tries the file's own learning rate times each factor."""

    def search(target: Target, task: Task, journal: Journal, *rest: Any, note: Callable[[str], None], **more: Any) -> None:
        watch = Watch(journal, note)
        for factor in factors:
            drawn = {**target.start, "lr": target.start["lr"] * factor}
            training, is_last = Training(task, drawn), False
            while not is_last:
                rung = training.step()
                watch.rung(drawn, rung)
                is_last = rung.is_last
                assert watch.fault is None

    return search


@pytest.fixture(autouse=True)
def _in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tune, "make_pool", lambda workers, **options: InlinePool())
    monkeypatch.setattr(_tune, "search", loop(1.0, 25.0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY)
    return path


def test_a_better_recipe_is_confirmed_written_and_already_trained(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "h"
    assert run(["tune", "cnn_tiny", str(file), "--home", str(home)]) == 0
    said = capsys.readouterr().out
    copy = tmp_path / "tiny_tuned.toml"
    assert "the file's own" in said
    assert "gain +" in said
    assert f"next: edgesearch optimize {copy} --home {home}" in said
    assert "# much too low" in copy.read_text()
    inputs = read_inputs(StudyFile.load(copy), to_run=False)
    assert (inputs.settings.name, inputs.settings.train.lr) == ("tiny_tuned", 2.5e-3)
    candidate = Target.find("cnn_tiny", inputs).candidate
    assert Store(home / "store").has("student", inputs.plan(candidate, last="student").key)
    journal = next((home / "tuning").iterdir())
    assert [tried.epochs for tried in Journal(journal).tried] == [3, 3]
    again = tune(file, "cnn_tiny", home)
    assert again.settings["lr"] == 2.5e-3
    assert len(again.own_accuracies) == len(again.best_accuracies) == 3
    assert min(again.best_accuracies) > max(again.own_accuracies)


def test_the_files_own_recipe_is_kept_where_no_other_is_better(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tune, "search", loop(1.0))
    assert run(["tune", "cnn_tiny", str(file), "--home", str(tmp_path / "h"), "--confirm", "1"]) == 0
    said = capsys.readouterr().out
    assert "no other recipe was better, so it is kept and nothing is written" in said
    assert f"next: edgesearch optimize {file}" in said
    assert not (tmp_path / "tiny_tuned.toml").exists()


def test_two_tunings_of_one_network_do_not_mix(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def second(*given: Any, **options: Any) -> None:
        with pytest.raises(StudyError, match="tunes this network in this store already"):
            tune(file, "cnn_tiny", tmp_path / "h")
        seen.append("refused")

    monkeypatch.setattr(_tune, "search", second)
    assert isinstance(tune(file, "cnn_tiny", tmp_path / "h", confirm=0), TunedRecipe)
    assert seen == ["refused"]
