"""Whether a study is stored, in databases of every age."""

from __future__ import annotations

import gc
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from _databases import running_postgresql

from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.search import Study, StudyFile
from edgesearch.search.library._reading import is_stored
from edgesearch.search.study import Home, open_storage, quiet_optuna

FEW = {"name": "digits", "train_images": 40, "validation_images": 40, "calibration_images": 20, "test_images": 20}
TABLES = {"data": FEW, "train": {"epochs": 1}, "candidates": [{"student": {"architecture": "mlp", "input_size": 8}}]}


def test_a_database_without_any_study_has_not_this_one(database: str, tmp_path: Path) -> None:
    home, name = Home(tmp_path / "home"), uuid.uuid4().hex
    assert not is_stored(name, database, home)
    assert not is_stored(name, None, home)
    optuna.create_study(study_name=name, storage=open_storage(database))
    assert is_stored(name, database, home)


def test_a_database_beside_the_working_folder_stays_the_same_when_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    opened = Study.open(StudyFile.parse(TABLES | {"name": "a"}), "home", storage="sqlite:///dd.db?timeout=30")
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened.optimize(workers=0)
    assert len(opened.records()) == 1
    assert {path.stem for path in tmp_path.iterdir() if path.is_file()} == {"dd"}
    assert not list((tmp_path / "elsewhere").iterdir())
    monkeypatch.chdir(tmp_path)
    stored = Study.load("a", "home", storage="sqlite:///dd.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(stored.records()) == 1


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda wrong: Study.load("a", home=wrong), "`home` is of type int, expected the path of a folder"),
        (lambda wrong: Study.load("a", storage=wrong), "`storage` is of type int, expected a database's URL"),
        (lambda wrong: Study.open("quickstart", board=wrong), "`board` is 5, expected a board's name, or several"),
        (lambda wrong: Study.open("quickstart", board=["zcu104", wrong]), "`board` is 5, expected a board's name"),
        (lambda wrong: Study.open("quickstart", store=wrong), "store is of type int, expected a path"),
        (lambda wrong: Study.open("quickstart").optimize(1, progress=wrong), "`progress` is of type int, expected a function"),
    ],
)
def test_arguments_of_another_kind_are_named(use: Callable[[Any], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(EdgesearchError, match=said):
        use(5)


def test_a_server_without_tables_and_an_empty_file_have_no_study(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    assert not is_stored("a", f"sqlite:///{tmp_path / 'x.db'}", Home(tmp_path))
    with running_postgresql() as server:
        assert not is_stored("a", server.url, Home(tmp_path))


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is not a database, but long enough to be looked at" * 20)
    with pytest.raises(StudyError, match="not a database"):
        is_stored("a", f"sqlite:///{tmp_path / 'x.db'}", Home(tmp_path))
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    assert not is_stored("a", f"sqlite:///{tmp_path / 'other.db'}", Home(tmp_path))


def test_the_study_that_was_run_last_is_read_though_another_has_the_newest_trial(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("first", "second"):
        Study.open(StudyFile.parse(TABLES | {"name": name}), home).optimize(workers=0)
    assert Study.load(home=home).name == "second"
    Study.open(StudyFile.parse(TABLES | {"name": "first"}), home).optimize(workers=0)  # it has all its trials
    assert Study.load(home=home).name == "first"
    with quiet_optuna():  # another program's, the newest of all
        optuna.create_study(study_name="theirs", storage=f"sqlite:///{home / 'studies.db'}").enqueue_trial({"x": 1.0})
    assert Study.load(home=home).name == "first"
    with sqlite3.connect(home / "studies.db") as database:
        database.execute("DELETE FROM study_user_attributes WHERE key = 'last_run'")  # as earlier versions had it
    assert Study.load(home=home).name == "second"


def test_reading_again_and_again_leaves_no_connection_open(tmp_path: Path) -> None:
    Study.open(StudyFile.parse(TABLES | {"name": "read"}), tmp_path).optimize(workers=0)
    loaded, process = Study.load("read", tmp_path), psutil.Process()
    kept = [loaded.view()]
    before = len([file for file in process.open_files() if "studies.db" in file.path])
    gc.disable()  # nothing is left to be found
    try:
        kept += [loaded.view() for _ in range(20)]
        after = len([file for file in process.open_files() if "studies.db" in file.path])
    finally:
        gc.enable()
    assert after <= before


def test_a_loaded_study_plans_with_the_threads_that_it_was_run_with(tmp_path: Path) -> None:
    Study.open(StudyFile.parse(TABLES | {"name": "two"}), tmp_path, threads=2).optimize(workers=0)
    said: list[str] = []
    loaded = Study.load("two", tmp_path)
    loaded.evaluate(loaded.record(0).candidate, progress=said.append)
    assert all("from the store" in line for line in said[1:])
