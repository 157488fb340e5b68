"""A study whose artifacts lie in an object store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgesearch.errors import StudyError
from edgesearch.search import Study
from edgesearch.search.commands._cli import run
from edgesearch.search.library import describe_cost


@pytest.mark.slow
def test_a_study_keeps_its_artifacts_in_an_object_store(
    tiny: Study, tiny_file: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home = f"{bucket}/studies", tmp_path / "home"
    Study.open(tiny_file, home, store=url).optimize(3, workers=0)
    assert not (home / "store").exists()
    Study.open(tiny_file, home).optimize(4, workers=0)  # it is not named again
    assert not (home / "store").exists()
    loaded = Study.load(home=home)
    ours, theirs = loaded.view().records, tiny.view().records
    assert [record.values for record in ours] == [record.values for record in theirs]  # as in a folder
    monkeypatch.setenv("EDGESEARCH_CACHE", str(tmp_path / "another machine"))
    manifest = loaded.front()[0].export(tmp_path / "export")
    assert manifest.exists()

    other = Study.open(tiny_file, tmp_path / "other home", store=url)
    other.optimize(4, workers=0)
    assert all(not record.stage_seconds for record in other.view().records)  # nothing is made twice


def test_a_store_that_no_worker_would_see_is_refused_before_anything_is_stored(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["optimize", str(tiny_file), "--home", str(tmp_path), "--workers", "0", "--store"]
    assert run([*arguments, "memory://x"]) == 2
    assert "seen by one process alone" in capsys.readouterr().err
    assert run([*arguments, "nosuch://x/y"]) == 2
    assert "Protocol not known: nosuch" in capsys.readouterr().err
    assert not (tmp_path / "studies.db").exists()


def test_a_folder_of_the_command_line_is_where_the_command_is_given(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Study.open(tiny_file, tmp_path / "home", store="shared")
    assert opened.settings.store == str(tmp_path / "shared")


def test_a_store_that_is_not_there_is_said_so_and_not_made(tiny_file: Path, tmp_path: Path) -> None:
    study = Study.open(tiny_file, tmp_path / "home", store=tmp_path / "disk")
    study.optimize(1, workers=0)
    shutil.move(tmp_path / "disk", tmp_path / "elsewhere")
    loaded = Study.load(home=tmp_path / "home")
    for read in (loaded.results, loaded.record(0).network, lambda: loaded.record(0).export(tmp_path / "deploy")):
        with pytest.raises(StudyError, match=r"there is no store at .*disk.*not mounted"):
            read()
    assert "nothing new" not in describe_cost(study.inputs, study.home, 1)
    for again in (Study.open(tiny_file, study.home.root), study):  # where it is not named, too
        with pytest.raises(StudyError, match=r"there is no store at .*disk.*not mounted.*Make an empty folder there"):
            again.optimize(2, workers=0)
    assert not (tmp_path / "disk").exists()
    shutil.move(tmp_path / "elsewhere", tmp_path / "disk")
    assert loaded.results()["command"] == f"edgesearch optimize {tiny_file.name} --trials 1"
    assert "nothing new" in describe_cost(study.inputs, study.home, 1)
    Study.open(tiny_file, study.home.root, store=tmp_path / "another").optimize(1, workers=0)  # one that is asked for is made


def test_a_candidate_is_evaluated_from_the_store_that_the_study_was_run_with(tiny_file: Path, tmp_path: Path) -> None:
    Study.open(tiny_file, tmp_path / "home", store=tmp_path / "disk").optimize(1, workers=0)
    opened, said = Study.open(tiny_file, tmp_path / "home"), list[str]()
    opened.evaluate(opened.records()[0].candidate, progress=said.append)
    assert all("from the store" in line for line in said[1:])
    assert not (tmp_path / "home" / "store").exists()
