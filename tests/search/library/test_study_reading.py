"""What a program reads of a study: its front and records, what it costs, and what other versions stored."""

from __future__ import annotations

import dataclasses
import gzip
import math
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from _fake_boards import write_boards
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.objectives import load_data, prepare
from edgesearch.search import Study, StudyFile
from edgesearch.search.library._cost import _what_is_left
from edgesearch.spaces import Candidate, Student

STORED = Path(__file__).parents[1] / "data"


def test_members_of_the_front_are_chosen_as_the_command_chooses(tiny: Study) -> None:
    front = tiny.front()
    assert all(record.deployable for record in front)
    fastest = max(front, key=lambda record: record.fps or 0)
    most_accurate = max(front, key=lambda record: record.accuracy or 0)
    assert front.best(min_accuracy=0.0) == fastest
    with pytest.raises(StudyError, match="min_accuracy is 90, expected a share from 0 to 1"):
        front.best(min_accuracy=90)
    assert front.best(min_fps=1.0) == most_accurate
    assert front.knee() in front
    assert len(front[:1]) == 1
    with pytest.raises(StudyError, match="no member of the front keeps these limits; the front is "):
        front.best(min_fps=1e9)
    for limit in ("x", True, math.nan):
        with pytest.raises(StudyError, match=rf"min_fps is {limit!r}, expected a number"):
            front.best(min_fps=limit)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="no trial 99"):
        tiny.record(99)


def test_a_record_is_shown_in_a_line(tiny: Study) -> None:
    record = tiny.front()[0]
    assert str(record) == f"<trial {record.number}: {record.recipe}, {record.accuracy:.2%} at {record.fps:,.0f} FPS>"
    assert str(dataclasses.replace(record, state="FAIL")) == f"<trial {record.number}: {record.recipe}, FAIL>"


def test_the_hypervolume_counts_from_nothing(tiny: Study) -> None:
    front = tiny.front()
    corner = max(r.accuracy or 0 for r in front) * max(r.fps or 0 for r in front)
    assert 0 < front.hypervolume() <= corner
    assert front.hypervolume([0.0, 0.0]) == front.hypervolume()
    with pytest.raises(StudyError, match="accuracy, fps"):
        front.hypervolume([0.0])
    for reference, words in (
        (5, "the reference is 5"),
        ([0, "x"], "a value of the reference is 'x'"),
        ([math.nan, 0], "is nan"),
    ):
        with pytest.raises(StudyError, match=words):
            front.hypervolume(reference)  # type: ignore[arg-type]


def test_a_table_has_a_row_for_each_member(tiny: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    front = tiny.front()
    table = front.to_pandas()
    assert list(table["trial"]) == [record.number for record in front]
    assert list(table["fps"]) == [record.fps for record in front]
    assert set(table["student.architecture"]) == {"cnn_tiny"}
    assert table["test_accuracy"].notna().all()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StudyError, match=r"edgesearch\[pandas\]"):
        front.to_pandas()


def test_the_float_network_of_a_trial_scores_what_was_recorded(tiny: Study) -> None:
    record = tiny.record(0)
    assert record.candidate.pruning.ratio == 0.5
    network = record.network()
    full = Study.open(tiny.settings, tiny.home.root).record(1).candidate.student
    assert full.architecture == "cnn_tiny"
    assert sum(p.numel() for p in network.parameters()) < 23946  # cnn_tiny unpruned
    data = load_data(tiny.settings.data)
    images = prepare(data.validation.images, 8, data.normalisation).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        right = network(torch.from_numpy(np.ascontiguousarray(images))).argmax(1).numpy() == data.validation.labels
    assert right.mean() == pytest.approx(record.float_accuracy)
    with pytest.raises(StudyError, match="trained in integers from scratch"):
        tiny.record(1).network()


def test_a_stored_study_of_0_1_0_is_shown_and_resumed(tmp_path: Path) -> None:
    with gzip.open(STORED / "study_0_1_0.db.gz") as packed, (tmp_path / "studies.db").open("wb") as file:
        shutil.copyfileobj(packed, file)
    stored = Study.load("stored", tmp_path)
    assert len(stored.records()) == 7
    assert stored.view().counts["RUNNING"] == 1
    assert [record.number for record in stored.front()] == [5, 2]
    assert stored.report(tmp_path / "report.html").stat().st_size > 100_000
    with pytest.raises(StudyError, match="no store"):
        stored.front()[0].network()
    opened = Study.open(STORED / "study_0_1_0.toml", tmp_path)
    other = opened.settings.with_changes(finetune=opened.settings.finetune.model_copy(update={"lr": 0.5}))
    with pytest.raises(StudyError, match=r"finetune\.lr: was 0\.003, is 0\.5"):
        Study.open(other, tmp_path).optimize(7, workers=0)
    lines: list[str] = []
    opened.optimize(7, workers=0, progress=lines.append)
    assert any(line.startswith("note: 6 of 6 finished trials were made or measured otherwise") for line in lines)
    assert opened.view().counts == {"COMPLETE": 7, "PRUNED": 0, "FAIL": 0, "RUNNING": 0}
    assert not opened.settings.data.test_first  # it went on with splits that are drawn otherwise now
    assert stored.settings.compiler == opened.settings.compiler == "edgesearch"
    last = max(opened.records(), key=lambda record: "compiler" in record.conditions)
    assert last.conditions["compiler"] == "edgesearch"


def test_settings_of_a_later_version_are_refused_with_the_reason(tiny: Study, tmp_path: Path) -> None:
    with sqlite3.connect(tiny.home.root / "studies.db") as source, sqlite3.connect(tmp_path / "studies.db") as target:
        source.backup(target)
    later = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'studies.db'}")
    content = later.user_attrs["study"]
    content["train"]["cutmix"] = 0.5
    later.set_user_attr("study", content)
    later.set_user_attr("edgesearch_version", "9.0")
    with pytest.raises(StudyError, match=r"edgesearch 9\.0, .*unknown key train\.cutmix"):
        Study.load("tiny", tmp_path)
    del content["train"]["cutmix"]
    del content["train"]["label_smoothing"]  # a setting that this version has and the one that stored the study had not
    later.set_user_attr("study", content)
    assert Study.load("tiny", tmp_path).settings == tiny.settings
    Study.open(tiny.settings, tmp_path).optimize(4, workers=0)


def test_a_study_that_no_candidate_can_suit_says_how_far_the_nearest_is(tiny: Study, tmp_path: Path) -> None:
    from edgesearch.search.library import describe_cost, preview

    hopeless = Study.open(tiny.settings.with_changes(name="fast", constraints={"min_fps": 1e6}), tmp_path)
    previewed = preview(hopeless.inputs, 5)
    assert previewed.kept == ()
    fastest = max(
        hopeless.inputs.estimator.estimate(c)["fps"]
        for c in [*hopeless.settings.candidates, Candidate(student=Student(architecture="cnn_tiny", input_size=8, width=0.5))]
    )
    assert previewed.nearest["misses"]["min_fps"]["expected"] == pytest.approx(fastest)
    said = describe_cost(hopeless.inputs, hopeless.home, 5)
    assert "in the store" not in said
    assert "FPS at least 1e+06, expected " in said


def test_what_a_study_costs_is_told_for_the_machine_that_trains(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesearch.search.library import describe_cost
    from edgesearch.search.processes import _machine

    def said(study: Study) -> str:
        (line,) = [line for line in describe_cost(study.inputs, study.home, 4).splitlines() if line.startswith("expected cost")]
        return line

    new = Study.open(tiny.settings, tmp_path)
    for gpus, words in (
        (0, "of one core (from"),
        (1, "of one core, of which trainings on this machine's GPU take a small part (from"),
    ):
        monkeypatch.setattr(_machine, "local_gpus", lambda gpus=gpus: gpus)
        assert words in said(new)
    assert "of one worker (from" in said(tiny)  # whose stages are recorded


def test_a_dry_run_says_how_many_trials_are_left(tiny: Study) -> None:
    from edgesearch.search.library import describe_cost

    done = len(tiny.records())
    assert f"it has {done} trials already: nothing is left to run" in describe_cost(tiny.inputs, tiny.home, done)
    assert f"it has {done} trials already: 3 more are left of {done + 3}" in describe_cost(tiny.inputs, tiny.home, done + 3)


def test_trials_that_were_begun_and_not_ended_are_still_to_run() -> None:
    begun, ended = TrialState.RUNNING, TrialState.COMPLETE
    goes_on = "it has 3 trials already: 1 of them begun and not ended, which goes on"
    assert _what_is_left([ended, begun, ended], 3) == goes_on
    assert _what_is_left([ended, begun, ended], 5).startswith(f"{goes_on}; 2 more are left of 5")
    assert _what_is_left([ended, begun, begun], 3).endswith(": 2 of them begun and not ended, which go on")
    assert _what_is_left([ended], 1) == "it has 1 trial already: nothing is left to run"


def test_a_dry_run_keeps_what_the_study_would_keep(tmp_path: Path) -> None:
    """Where boards score, a limit on speed rules out before training only what breaks it at the favourable end."""
    from edgesearch.search.library import preview

    write_boards(tmp_path)
    tables: dict[str, Any] = {
        "name": "lab_study",
        "score": "board",
        "boards": ["lab:a"],
        "data": {"name": "digits", "train_images": 100, "validation_images": 50, "calibration_images": 20},
        "candidates": [{"student": {"architecture": "mlp", "input_size": 8}}],
    }
    opened = Study.open(StudyFile.parse(tables, folder=tmp_path), tmp_path / "home")
    expected = opened.inputs.estimator.estimate(opened.settings.candidates[0])
    favourable = expected["fps"] / (1 - expected["fps_error"])
    for limit, kept in ((0.99 * favourable, 1), (1.01 * favourable, 0)):
        study = StudyFile.parse(tables | {"constraints": {"min_fps": limit}}, folder=tmp_path)
        previewed = preview(Study.open(study, tmp_path / "home").inputs, 1)
        assert len(previewed.kept) == kept
        assert bool(previewed.nearest) == (not kept)
