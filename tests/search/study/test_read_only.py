from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from _studies import make_study
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.search import Study, StudyFile
from edgesearch.search.study._errors import parse_url
from edgesearch.search.study._read_only import ReadOnlyStudy, _read_only_engine, holds_studies, open_read_only
from edgesearch.search.study._settings import store_settings


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('study') / 'studies.db'}"
    make_study(20, constraints={"min_fps": 600.0, "min_accuracy": 0.8}, storage=url)
    make_study(1, storage=url, name="other")
    return url


@pytest.mark.parametrize("name", ["studies.db", "odd #1 name {x}.db"])
def test_the_database_itself_refuses_writes(url: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    shutil.copy(url.removeprefix("sqlite:///"), path)
    storage = open_read_only(f"sqlite:///{path}")
    study = optuna.load_study(study_name="demo", storage=storage)
    assert len(study.trials) == 21
    before = path.read_bytes()
    with pytest.raises(StorageInternalError):
        storage.set_study_user_attr(study._study_id, "rejected", 0)
    assert path.read_bytes() == before


def test_every_writing_method_is_refused(url: str) -> None:
    storage = ReadOnlyStudy(open_read_only(url), "demo", lambda study: "")
    study_id = storage.get_study_id_from_name("demo")
    trial_id = storage.get_all_trials(study_id)[-1]._trial_id
    distribution = optuna.distributions.IntDistribution(0, 1)
    for write in (
        lambda: storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "new"),
        lambda: storage.delete_study(study_id),
        lambda: storage.set_study_user_attr(study_id, "a", 1),
        lambda: storage.set_study_system_attr(study_id, "a", 1),
        lambda: storage.create_new_trial(study_id),
        lambda: storage.set_trial_param(trial_id, "x", 0.0, distribution),
        lambda: storage.set_trial_state_values(trial_id, TrialState.FAIL),
        lambda: storage.set_trial_intermediate_value(trial_id, 0, 0.0),
        lambda: storage.set_trial_user_attr(trial_id, "a", 1),
        lambda: storage.set_trial_system_attr(trial_id, "a", 1),
    ):
        with pytest.raises(StudyError, match="shown here, not changed"):
            write()


def test_only_the_named_study_is_there_with_its_note(url: str) -> None:
    storage = ReadOnlyStudy(open_read_only(url), "demo", lambda study: f"note on {study.study_name}")
    (study,) = storage.get_all_studies()
    assert study.study_name == "demo"
    assert study.system_attrs["dashboard:note_str:0"] == "note on demo"
    assert storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"] == 1
    with pytest.raises(StudyError, match="no study 'third' here \\(there is: demo, other\\)"):
        ReadOnlyStudy(open_read_only(url), "third", lambda study: "")


def test_constraints_are_given_in_the_order_of_their_names_and_the_trials_are_not_touched(url: str) -> None:
    backend = open_read_only(url)
    storage = ReadOnlyStudy(backend, "demo", lambda study: "")
    study_id = storage.get_study_id_from_name("demo")
    for shown, stored in zip(storage.get_all_trials(study_id), backend.get_all_trials(study_id), strict=True):
        if stored.state == TrialState.COMPLETE:
            expected = [stored.constraints["min_accuracy"], stored.constraints["min_fps"]]
            assert shown.system_attrs["constraints"] == expected
            assert list(shown.constraints.values()) == expected
            assert [value > 0 for value in expected] == [
                name in stored.user_attrs["violations"] for name in sorted(stored.constraints)
            ]
            assert set(stored.constraints) == {"min_accuracy", "min_fps"}
            assert storage.get_trial(shown._trial_id).system_attrs == shown.system_attrs
        else:
            assert "constraints" not in shown.system_attrs


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///{folder}/none.db", "there is no database"),
        ("sqlite:///{folder}/text.db", "cannot be read: file is not a database"),
        ("sqlite:///{folder}/empty.db", "cannot be read"),
        ("nonsense", "is not a database URL"),
        ("postgresql+psycopg://user@host:port/studies", "is not a database URL"),
        ("postgresql+psycopg://user:secret@host:port/studies", r"'postgresql\+psycopg://user:\*\*\*@host:port/studies' is not"),
    ],
)
def test_a_storage_that_cannot_be_read_is_one_sentence(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one" * 40)
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(StudyError, match=words) as caught:
        open_read_only(url.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none.db").exists()


@contextmanager
def unwritable(folder: Path, place: Path) -> Iterator[Path]:
    """The folder again at `place`, where nobody may write, root neither."""
    place.mkdir()
    if subprocess.run(["mount", "--bind", str(folder), str(place)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_study_is_read_where_nobody_may_write(url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(url.removeprefix("sqlite:///"), home / "studies.db")
    settings = StudyFile.parse({"name": "demo", "data": {"name": "digits"}, "space": {}})
    store_settings(optuna.load_study(study_name="demo", storage=f"sqlite:///{home / 'studies.db'}"), settings)
    writer = sqlite3.connect(home / "studies.db")
    assert writer.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    writer.close()  # the last one to go takes its log of changes along
    assert [file.name for file in home.iterdir()] == ["studies.db"]
    with unwritable(home, tmp_path / "read_only") as place:
        with pytest.raises(sqlite3.OperationalError):
            sqlite3.connect(f"file:{place / 'studies.db'}?mode=ro", uri=True).execute("SELECT * FROM studies")
        assert holds_studies(f"sqlite:///{place / 'studies.db'}")
        study = Study.load("demo", home=place)
        assert len(study.records()) == 21
        study.report(tmp_path / "report.html")
        assert "demo" in (tmp_path / "report.html").read_text()


def test_a_log_of_changes_that_is_there_is_read_where_nobody_may_write(url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(url.removeprefix("sqlite:///"), home / "studies.db")
    writer = sqlite3.connect(home / "studies.db", isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    with unwritable(home, tmp_path / "read_only") as place:
        address = f"sqlite:///{place / 'studies.db'}"
        assert optuna.load_study(study_name="other", storage=open_read_only(address)).study_name == "other"
        storage = open_read_only(address)
        writer.execute("UPDATE studies SET study_name = 'renamed' WHERE study_name = 'other'")
        assert (home / "studies.db-wal").stat().st_size
        assert {study.study_name for study in storage.get_all_studies()} == {"demo", "renamed"}
    writer.close()


def test_the_options_of_a_postgresql_url_are_kept_where_it_is_read(postgresql: str) -> None:
    url = f"{postgresql}?options=-csearch_path%3Dmine"
    address, given = _read_only_engine(url, parse_url(url))
    engine = sqlalchemy.create_engine(address, **given)
    with engine.connect() as connection:
        shown = [
            connection.execute(sqlalchemy.text(f"SHOW {name}")).scalar()
            for name in ("search_path", "default_transaction_read_only")
        ]
    engine.dispose()
    assert shown == ["mine", "on"]
