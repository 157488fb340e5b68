"""What is refused when a study goes on with other inputs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from edgesearch.board_eval import load_profile
from edgesearch.errors import DataError, StudyError
from edgesearch.search import Study, StudyFile
from edgesearch.search.library._inputs import Inputs, read_inputs
from edgesearch.search.library._sameness import keep_inputs, refuse_other_inputs


def inputs(board: str, **data: Any) -> Inputs:
    few = {"train_images": 40, "validation_images": 40, "calibration_images": 20, "test_images": 20}
    tables = {"name": "s", "board": board, "data": {"name": "digits", **few, **data}}
    candidates = [{"student": {"architecture": "mlp", "input_size": 8}}]
    return read_inputs(StudyFile.parse({**tables, "candidates": candidates}))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "board.json"
    path.write_text(load_profile("zcu104").to_json())
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_profile_that_was_edited_in_place_is_refused_with_the_difference(profile: Path) -> None:
    study = optuna.create_study()
    keep_inputs(inputs(str(profile)), study)
    edit(profile, lambda content: content.update(name="another", origin="elsewhere"))  # which decide nothing
    refuse_other_inputs(inputs(str(profile)), study)
    edit(profile, lambda content: content.update(clock_mhz=250.0))
    edit(profile, lambda content: content["constants"].update(load_bytes_per_cycle=11.5))
    before = load_profile("zcu104")
    with pytest.raises(StudyError) as caught:
        refuse_other_inputs(inputs(str(profile)), study)
    said = str(caught.value)
    assert f"clock_mhz: was {before.clock_mhz}, is 250.0" in said
    assert f"constants.load_bytes_per_cycle: was {before.constants.load_bytes_per_cycle}, is 11.5" in said
    assert "--name" in said
    assert "\n" not in said


def test_the_profiles_that_come_with_this_program_may_change_with_it(profile: Path) -> None:
    study = optuna.create_study()
    keep_inputs(inputs("zcu104"), study)
    assert set(study.user_attrs) == {"data_fingerprint", "data_fingerprints", "validation_images"}


def test_what_another_version_knows_of_a_profile_is_no_difference(profile: Path) -> None:
    study = optuna.create_study()
    keep_inputs(inputs(str(profile)), study)
    stored = dict(study.user_attrs["board_profile"])
    del stored["job_seconds"]
    study.set_user_attr("board_profile", stored | {"gone": 1})
    refuse_other_inputs(inputs(str(profile)), study)


def test_other_images_are_refused_with_the_parts_that_differ() -> None:
    study = optuna.create_study()
    given = inputs("zcu104")
    keep_inputs(given, study)
    other = replace(given.data, fingerprint="0", fingerprints={**given.data.fingerprints, "train": "0", "test": "0"})
    with pytest.raises(StudyError, match=r"\(the training images, the test images differ\)"):
        refuse_other_inputs(replace(given, data=other), study)


def study_in(folder: Path, seed: int = 0, classes: int = 3) -> StudyFile:
    """A study of one small network, with its images and the profile of its board in the folder."""
    random = np.random.default_rng(seed)
    images, labels = random.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % classes
    np.savez(folder / "d.npz", train_images=images, train_labels=labels)
    (folder / "b.json").write_text(load_profile("zcu104").to_json())
    tables = {"name": "s", "board": "b.json", "data": {"name": "npz", "root": "d.npz"}, "train": {"epochs": 1}}
    candidates = [{"student": {"architecture": "mlp", "input_size": 8}}]
    return StudyFile.parse({**tables, "candidates": candidates}, folder=folder)


def test_a_moved_study_goes_on_and_is_found_where_it_lies_now_unless_its_images_are_others(tmp_path: Path) -> None:
    def study(place: str, seed: int) -> StudyFile:
        (tmp_path / place).mkdir()
        return study_in(tmp_path / place, seed)

    def go_on(settings: StudyFile) -> None:
        Study.open(settings, home=tmp_path / "home").optimize(trials=1, workers=0)

    first, moved, others = study("one", 0), study("two", 0), study("three", 1)
    go_on(first)
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(DataError, match="given once from the study's new place"):
        _ = Study.load("s", home=tmp_path / "home").inputs
    go_on(moved)
    assert Study.load("s", home=tmp_path / "home").settings == moved
    with pytest.raises(StudyError, match="the images of data set 'npz' are not those"):
        go_on(others)
    assert Study.load("s", home=tmp_path / "home").settings == moved


def test_trials_are_not_exported_with_other_inputs_than_they_were_made_with(tmp_path: Path) -> None:
    home = tmp_path / "home"
    opened = Study.open(study_in(tmp_path), home)
    opened.optimize(workers=0)
    settings = opened.results()["settings"]
    loaded = Study.load("s", home)
    record = loaded.record(0)
    record.export(tmp_path / "deploy")
    (tmp_path / "deploy" / "trial-0000" / "labels.txt").unlink()  # so that one that is written anew is seen

    edited = Study.open(opened.settings.with_changes(seed=7), home)
    with pytest.raises(StudyError, match=r"seed: was 0, is 7"):
        edited.record(0).export(tmp_path / "deploy")
    assert edited.results()["settings"] == settings

    edit(tmp_path / "b.json", lambda content: content.update(clock_mhz=250.0))
    with pytest.raises(StudyError, match=r"clock_mhz: was 300\.0, is 250\.0"):
        Study.load("s", home).record(0).export(tmp_path / "deploy")

    study_in(tmp_path, classes=4)
    candidate = record.candidate
    for study in (Study.load("s", home), Study.open(study_in(tmp_path, classes=4), home)):
        with pytest.raises(StudyError, match=r"not those that study 's' was started with \(classes, channels"):
            study.record(0).export(tmp_path / "deploy")
    with pytest.raises(StudyError, match="not those that study 's' was started with"):
        Study.load("s", home).evaluate(candidate)
    assert [path.name for path in (tmp_path / "deploy").iterdir()] == ["trial-0000"]
    assert not (tmp_path / "deploy" / "trial-0000" / "labels.txt").exists()

    (tmp_path / "d.npz").unlink()
    gone = Study.load("s", home)
    assert len(gone.front()) == 1
    assert sum(p.numel() for p in gone.record(0).network().parameters()) > 0
    with pytest.raises(DataError):
        gone.record(0).export(tmp_path / "deploy")


def test_a_study_that_keeps_nothing_of_its_inputs_is_exported(tmp_path: Path) -> None:
    Study.open(study_in(tmp_path), tmp_path / "home").optimize(workers=0)
    with sqlite3.connect(tmp_path / "home" / "studies.db") as database:
        database.execute("DELETE FROM study_user_attributes WHERE key LIKE 'data_%' OR key = 'board_profile'")
    assert (Study.load("s", tmp_path / "home").record(0).export(tmp_path / "deploy") / "labels.txt").is_file()
