from __future__ import annotations

import errno
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from edgesearch.errors import StudyError
from edgesearch.search.study import Home
from edgesearch.search.study._errors import shown_url
from edgesearch.search.study._file import StudyFile, load_study
from edgesearch.search.study._settings import stored_settings
from edgesearch.search.study._storage import create_or_resume, open_storage, open_study, study_names


def settings(**change: object) -> StudyFile:
    return StudyFile.model_validate(load_study("quickstart").to_json() | change)


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def begin(storage: RDBStorage, file: StudyFile | None = None) -> optuna.Study:
    """A study with its first trial."""
    study = create_or_resume(storage, file or settings())
    candidate = {"student": {"architecture": "mlp"}}
    study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"candidate": candidate}))
    return study


def test_a_study_is_made_and_resumed(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    made = begin(storage)
    again = create_or_resume(open_storage(url(tmp_path)), settings())
    assert made._study_id == again._study_id
    assert made.metric_names == ["accuracy", "fps"]
    assert study_names(storage) == ["quickstart"]


def test_a_changed_study_file_is_refused_with_the_difference(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    begin(storage)
    changed = settings(seed=7, train=settings().train.model_copy(update={"lr": 0.5}).model_dump())
    with pytest.raises(StudyError) as caught:
        create_or_resume(storage, changed)
    assert all(words in str(caught.value) for words in ("seed: was 0, is 7", "train.lr", "is 0.5", "--name"))


def test_a_study_without_a_trial_takes_other_settings(tmp_path: Path) -> None:
    """Its start failed, so that its name is free."""
    storage = open_storage(url(tmp_path))
    create_or_resume(storage, settings()).set_user_attr("threads", 8)
    changed = settings(seed=7, objectives=["accuracy", "latency_ms"])
    made = create_or_resume(storage, changed)
    assert stored_settings(made).seed == 7
    assert made.metric_names == ["accuracy", "latency_ms"]
    assert made.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert "threads" not in made.user_attrs
    assert study_names(storage) == ["quickstart"]


def test_a_study_without_a_trial_keeps_its_store_where_none_is_named(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    create_or_resume(storage, settings(store="elsewhere"))
    assert stored_settings(create_or_resume(storage, settings(seed=7))).store == "elsewhere"
    assert stored_settings(create_or_resume(storage, settings(store="there"))).store == "there"


def test_a_study_that_was_killed_while_it_was_made_takes_other_objectives(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    optuna.create_study(study_name="quickstart", storage=storage, directions=["maximize", "maximize"])
    made = create_or_resume(storage, settings(objectives=["accuracy"]))
    assert made.metric_names == ["accuracy"]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            {},
            "trial 0 of study 'quickstart' has no candidate, so that edgesearch has not made it; give the study another --name",
        ),
        ({"candidate": {"student": {"architecture": "mlp", "petals": 5}}}, "trial 0 of study 'quickstart': .*petals.*--name"),
    ],
)
def test_a_study_with_trials_of_somebody_else_is_refused(tmp_path: Path, attributes: dict[str, Any], words: str) -> None:
    study = create_or_resume(open_storage(url(tmp_path)), settings())
    study.enqueue_trial({}, user_attrs=attributes)
    with pytest.raises(StudyError, match=words):
        create_or_resume(open_storage(url(tmp_path)), settings())


def test_more_trials_are_no_change(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    begin(storage)
    more = settings(search=settings().search.model_copy(update={"trials": 5000}).model_dump())
    create_or_resume(storage, more)


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "sqlite:////no/such/folder/x.db",
        "postgresql+psycopg://user:secret@127.0.0.1:1/none",
        "oracle+nodriver://x/y",
    ],
)
def test_storages_that_do_not_connect_are_one_sentence(bad: str) -> None:
    with pytest.raises(StudyError) as caught:
        open_storage(bad)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("this is not a database, but long enough to be looked at" * 20)
    with pytest.raises(StudyError, match="not a database"):
        open_storage(url(tmp_path))


def test_an_absent_study_names_those_there_are(tmp_path: Path) -> None:
    storage = open_storage(url(tmp_path))
    create_or_resume(storage, settings())
    with pytest.raises(StudyError, match="quickstart"):
        open_study(storage, "other")


@pytest.mark.parametrize("suffix", ["", "?timeout=30"])
def test_options_in_the_url_are_no_part_of_the_files_name(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///x.db{suffix}", f"sqlite:///{tmp_path}/y.db{suffix}"):
        storage = open_storage(url)
        with storage.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        storage.engine.dispose()
    assert {file.name for file in tmp_path.iterdir()} == {"x.db", "y.db"}


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"pip install 'edgesearch\[postgresql\]'"):
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:1/none")


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StudyError, match=r"Read-only file system.*name another"):
        Home(tmp_path).prepare()


@pytest.mark.parametrize("key", ["password", "passfile", "sslpassword", "PassWord"])
def test_no_password_is_shown(key: str) -> None:
    url = f"postgresql+psycopg://me:other@host/studies?connect_timeout=3&{key}=secret"
    assert "secret" not in shown_url(url)
    assert "other" not in shown_url(url)
    assert f"{key}=***" in shown_url(url)
    assert "connect_timeout=3" in shown_url(url)
    with pytest.raises(StudyError) as caught:
        open_storage(f"postgresql://me:other@host:none/x?{key}=secret&a=b")
    assert "secret" not in str(caught.value)
    assert "other" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:studies?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match="no other command finds it; name a file"):
        open_storage(url)


def test_a_study_goes_on_whose_recipes_were_written_when_less_depended_on_others(tmp_path: Path) -> None:
    def of(train: dict[str, float], qat: dict[str, float]) -> StudyFile:
        return settings(train={"epochs": 2, **train}, qat={"epochs": 2, "optimizer": "sgd", **qat})

    storage = open_storage(url(tmp_path))
    made = begin(storage, of({"warmup_epochs": 1.0}, {"clip_norm": 0.0}))
    assert create_or_resume(storage, of({}, {}))._study_id == made._study_id
    with pytest.raises(StudyError, match=r"train\.warmup_epochs: was 0\.5, is 0\.0"):
        create_or_resume(storage, of({"warmup_epochs": 0.0}, {}))
