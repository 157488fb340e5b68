"""The students of docs/studies.md: the table says what `bench` says, and the example of a space runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgesearch.board_eval import board_timing, load_profile, lower
from edgesearch.search import Study, StudyFile
from edgesearch.spaces import PRESETS, Candidate, Student, build

TEXT = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
ROWS = re.findall(r"\| `(\w+)` \| `(staged [^`]+)` \| ([\d.]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \|", TEXT)
QUICK = {
    "name": "family",
    "data": {"name": "digits", "train_images": 60, "validation_images": 40, "calibration_images": 10, "test_images": 20},
    "train": {"epochs": 1},
}


def test_every_preset_is_in_the_table() -> None:
    assert {row[0] for row in ROWS} == {*PRESETS, "resnet20"}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_says_what_bench_says(row: tuple[str, ...]) -> None:
    name, staged, macs, parameters, dpu, latency, fps = row
    keys = {Candidate(student=Student(architecture=architecture)).key for architecture in (name, staged)}
    assert len(keys) == 1
    graph = lower(build(Student(architecture=name), channels=3, classes=10), (3, 32, 32))
    timing = board_timing(graph, load_profile("zcu104"), layers=False)
    assert f"{graph.macs / 1e6:.1f}" == macs
    assert f"{graph.parameters:,}" == parameters
    assert f"{timing.dpu_s * 1e3:.3f}" == dpu
    assert f"{timing.latency_s * 1e3:.2f}" == latency
    assert f"{timing.throughput_fps:,.0f}" == fps


@pytest.mark.slow
def test_the_example_of_a_space_runs(tmp_path: Path) -> None:
    (example,) = [text for text in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL) if "[space.student.staged]" in text]
    tables = tomllib.loads(example)
    tables["space"]["input_size"] = [8]
    tables["search"] = {"sampler": "tpe", "startup_trials": 2}
    study = Study.open(StudyFile.parse(QUICK | tables, folder=tmp_path), tmp_path / "home")
    assert study.unsupported == ()
    study.optimize(4, workers=0)
    records = study.records()
    assert [record.state for record in records] == ["COMPLETE"] * 4
    assert {record.architecture for record in records} <= {"staged", "resnet8"}
    searched = [record for record in records if record.architecture == "staged"]
    assert all(record.recipe.startswith("staged ") for record in searched)
    assert Study.load("family", tmp_path / "home").settings == study.settings
