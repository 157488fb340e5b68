"""What is recorded is what a run of the study makes, and is not made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.errors import StudyError
from edgesearch.search import Study
from edgesearch.search.study import StudyFile
from edgesearch.testing import History, Table, record_study, replay


@pytest.fixture(scope="module")
def study() -> StudyFile:
    return StudyFile.parse(
        {
            "name": "tiny",
            "data": {"name": "digits", "validation_images": 200, "calibration_images": 20},
            "train": {"epochs": 4, "lr": 1e-3},
            "finetune": {"epochs": 1},
            "prune": {"draws": 2, "score_images": 64, "recalibration_images": 64},
            "space": {
                "students": ["cnn_tiny"],
                "input_size": [8],
                "pruning": ["none", "one_step"],
                "ratio": [0.25, 0.5],
                "algorithm": ["vitis"],
            },
            "search": {"sampler": "random", "trials": 3},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recording")


@pytest.fixture(scope="module")
def table(study: StudyFile, folder: Path) -> Table:
    return record_study(study, folder, note=lambda line: None)


@pytest.mark.slow
def test_candidates_have_the_figures_that_a_run_of_the_study_gives(study: StudyFile, table: Table, tmp_path: Path) -> None:
    opened = Study.open(study, home=tmp_path)
    opened.optimize(workers=0)
    records = opened.records()
    assert len(records) == len(table.candidates) == 3
    for record in records:
        figures = table.figures(record.candidate)
        assert figures is not None
        assert figures["accuracy"] == record.accuracy
        assert figures["fps"] == pytest.approx(record.fps)


def test_a_student_has_an_accuracy_for_every_epoch(table: Table) -> None:
    (student,) = (entry for entry in table.entries if entry.kind == "student")
    assert len(student.epochs) == 4
    assert student.epochs[-1].accuracy == student.figures["accuracy"]
    assert student.epochs[0].accuracy < student.epochs[-1].accuracy
    assert all(epoch.seconds > 0 for epoch in student.epochs)
    assert sum(epoch.seconds for epoch in student.epochs) + student.overhead == pytest.approx(student.seconds)


def test_choosing_channels_is_a_part_of_pruning(table: Table) -> None:
    pruned = [entry for entry in table.entries if entry.kind == "pruned"]
    assert len(pruned) == 2
    assert all(0 < entry.chosen_seconds < entry.seconds for entry in pruned)


def test_what_was_recorded_is_not_made_again(study: StudyFile, folder: Path, table: Table) -> None:
    lines = (folder / "entries.jsonl").read_text()
    again = record_study(study, folder, note=lambda line: None)
    assert (folder / "entries.jsonl").read_text() == lines
    assert again.entries == table.entries


def test_a_line_that_was_cut_off_is_made_again(study: StudyFile, folder: Path, table: Table) -> None:
    lines = (folder / "entries.jsonl").read_text()
    (folder / "entries.jsonl").write_text(lines[:-40])
    again = record_study(study, folder, note=lambda line: None)
    assert [entry.name for entry in again.entries] == [entry.name for entry in table.entries]
    assert again.entries[:-1] == table.entries[:-1]
    assert again.entries[-1].figures == table.entries[-1].figures


def test_another_study_is_kept_out_of_the_folder(study: StudyFile, folder: Path, table: Table) -> None:
    with pytest.raises(StudyError, match="has stages of another study"):
        record_study(study.with_changes(train={"epochs": 5}), folder)


def test_a_study_without_a_space_is_refused(study: StudyFile, tmp_path: Path) -> None:
    named = study.with_changes(space=None, candidates=[{"student": {"architecture": "cnn_tiny", "input_size": 8}}])
    with pytest.raises(StudyError, match=r"has no \[space\]"):
        record_study(named, tmp_path)


def test_a_recorded_study_is_searched(table: Table) -> None:
    history: History = replay(table=table, trials=3)
    assert history.points[-1].share == pytest.approx(1.0)


OWN = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels, width):
        body = nn.Conv2d(in_channels, int(16 * width), 3), nn.ReLU(), nn.Flatten()
        super().__init__(*body, nn.Linear(int(576 * width), num_classes))
"""


def test_students_beside_the_study_file_that_teach_themselves_are_recorded_each_by_itself(tmp_path: Path) -> None:
    (tmp_path / "recorded_net.py").write_text(OWN)
    data = {"name": "digits", "train_images": 60, "validation_images": 40, "calibration_images": 20, "test_images": 20}
    space = {"students": ["recorded_net:Net"], "input_size": [8], "width": [0.5, 1.0], "distillation": ["self"]}
    tables = {"name": "own", "data": data, "train": {"epochs": 1}, "space": {**space, "algorithm": ["vitis"]}}
    recorded = record_study(StudyFile.parse(tables, folder=tmp_path), tmp_path / "made", note=lambda line: None)
    assert [entry.failure for entry in recorded.entries] == [""] * len(recorded.entries)
    assert sum(entry.kind == "logits" for entry in recorded.entries) == 2
    recorded.save(tmp_path / "table.gz")
    loaded = Table.load(tmp_path / "table.gz", folder=tmp_path)
    assert replay(table=loaded, trials=2).points[-1].share == pytest.approx(1.0)


def test_a_space_without_an_end_is_refused(study: StudyFile, tmp_path: Path) -> None:
    endless = study.with_changes(space={"students": ["cnn_tiny"], "width": {"low": 0.5, "high": 1.0}, "input_size": [8]})
    with pytest.raises(StudyError, match="a range without steps, and so no last candidate"):
        record_study(endless, tmp_path)
