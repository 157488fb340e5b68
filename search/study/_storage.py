"""Opening Optuna's storage, and a study in it: made, resumed, or refused because its settings changed."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from edgesearch.errors import SpaceError, StudyError
from edgesearch.search.study._attributes import attributes_of
from edgesearch.search.study._creation import create_once
from edgesearch.search.study._database import Database
from edgesearch.search.study._errors import DATABASE_ERRORS, database_errors, database_reason, driver_hint, parse_url, shown_url
from edgesearch.search.study._file import StudyFile
from edgesearch.search.study._quiet import quiet_optuna
from edgesearch.search.study._settings import has_settings, refuse_changes, store_settings, stored_settings
from edgesearch.spaces import parse_candidate

#: Seconds for which one writer of a SQLite file waits for another.
_SQLITE_WAITS = 60


def open_storage(url: str) -> RDBStorage:
    """The storage at a SQLAlchemy URL; raises StudyError when it does not connect.

    A SQLite file keeps a write-ahead log, so that readers (the dashboard, `pareto`) may look at it while it is written, and
    writers wait for each other for a minute (`?timeout=` in the URL: another number of seconds). Of several drivers that open a
    new database at the same time each makes what is missing.
    """
    parsed = parse_url(url)
    in_memory = parsed.database in (None, "", ":memory:") or parsed.query.get("mode") == "memory"
    if in_memory and parsed.get_backend_name() == "sqlite":
        raise StudyError(
            f"--storage {shown_url(url)} keeps a study in the memory of this process, where no other command finds it; name a "
            "file: sqlite:///studies.db"
        )
    try:
        sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": not sqlite}  # connections of before a server's restart are dropped
        if sqlite and "timeout" not in parsed.query:
            options["connect_args"] = {"timeout": _SQLITE_WAITS}
        if sqlite:
            use_write_ahead_log(url)
        return create_once(lambda: Database(url, engine_kwargs=options))
    except ImportError as error:
        raise StudyError(f"--storage {shown_url(url)} needs a driver that is not installed; {driver_hint(url)}") from error
    except (*DATABASE_ERRORS, OSError, RuntimeError) as error:
        advice = (
            "check the path, and that its folder is there, writable and not full"
            if sqlite
            else "check the URL and that it runs"
        )
        raise StudyError(f"--storage {shown_url(url)} cannot be used: {database_reason(error)}; {advice}") from error


def use_write_ahead_log(url: str) -> None:
    """SQLite takes it on while nobody else is connected, so before Optuna is; the file remembers it."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def study_names(storage: RDBStorage) -> list[str]:
    """All studies in the storage."""
    return sorted(optuna.get_all_study_names(storage))


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """An existing study; raises StudyError naming those there are."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = ", ".join(study_names(storage)) or "none"
        raise StudyError(f"there is no study {name!r} here (there is: {names}); run `edgesearch optimize` first") from error


def create_or_resume(storage: RDBStorage, settings: StudyFile) -> optuna.Study:
    """The study of this file. One without a trial, whose start failed, is made anew: no setting of it was used yet.

    Raises StudyError showing the difference when it was started with other settings, and when the database cannot be written.
    """
    with database_errors(storage.url):
        return _create_or_resume(storage, settings)


def _create_or_resume(storage: RDBStorage, settings: StudyFile) -> optuna.Study:
    if settings.name in study_names(storage):
        study = open_study(storage, settings.name)
        has_trials = bool(study.get_trials(deepcopy=False))
        if has_settings(study) and has_trials:
            refuse_changes(study, settings)
            _refuse_other_trials(study)
            return study
        if not has_trials:
            settings = _with_store(settings, study)
            optuna.delete_study(study_name=settings.name, storage=storage)
            study = _create(storage, settings)
    else:
        study = _create(storage, settings)
    # The file comes last: a study killed between these lines is completed here by the next run.
    with quiet_optuna():
        study.set_metric_names(list(settings.objectives))
    store_settings(study, settings)
    return study


def _with_store(settings: StudyFile, study: optuna.Study) -> StudyFile:
    """With the store that the study has, where they name none."""
    if settings.store or not has_settings(study):
        return settings
    try:
        known = stored_settings(study).store
    except StudyError:  # of another version
        return settings
    return settings.model_copy(update={"store": known})


def _create(storage: RDBStorage, settings: StudyFile) -> optuna.Study:
    with quiet_optuna():
        return optuna.create_study(study_name=settings.name, storage=storage, directions=settings.directions)


def _refuse_other_trials(study: optuna.Study) -> None:
    """Raise StudyError where a trial has no candidate, as one that Optuna's own interface made, or one that this version does
    not know.
    """
    for trial in study.get_trials(deepcopy=False):
        where = f"trial {trial.number} of study {study.study_name!r}"
        again = "give the study another --name: what is in the store is not made again"
        if "candidate" not in (attributes := attributes_of(trial)):
            raise StudyError(f"{where} has no candidate, so that edgesearch has not made it; {again}")
        try:
            parse_candidate(attributes["candidate"], where)
        except SpaceError as error:
            raise StudyError(f"{error}; {again}") from error
