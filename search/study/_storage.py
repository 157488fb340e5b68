"""Opening Optuna's storage, and a study in it: made, resumed, or refused because its settings changed."""

from __future__ import annotations

import warnings

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from edgesearch.errors import StudyError
from edgesearch.search.study._file import StudyFile
from edgesearch.search.study._home import use_write_ahead_log
from edgesearch.search.study._quiet import quiet_optuna
from edgesearch.search.study._settings import has_settings, refuse_changes, store_folder, store_settings


def open_storage(url: str) -> RDBStorage:
    """The storage at a SQLAlchemy URL; raises StudyError when it does not connect."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        if url.startswith("sqlite:///"):
            use_write_ahead_log(url)
        return RDBStorage(url)
    except ArgumentError as error:
        raise StudyError(f"--storage {url!r} is not a database URL; expected one such as sqlite:///runs/studies.db") from error
    except ImportError as error:
        hint = "pip install 'edgesearch[postgresql]'" if "psycopg" in url else "install its driver"
        raise StudyError(f"--storage {shown} needs a driver that is not installed; {hint}") from error
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        raise StudyError(f"--storage {shown} does not connect: {_first_line(error)}; check the URL and that it runs") from error
    except Exception as error:  # sqlite3's and drivers' own errors, for files that are no database
        if type(error).__module__.split(".")[0] not in ("sqlite3", "psycopg", "psycopg2", "pymysql", "optuna"):
            raise
        raise StudyError(f"--storage {shown} cannot be used: {_first_line(error)}; check the URL") from error


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


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
    """The study of this file; raises StudyError showing the difference when it was started with other settings."""
    if settings.name in study_names(storage):
        study = open_study(storage, settings.name)
        if has_settings(study):
            refuse_changes(study, settings)
            store_folder(study, settings)
            return study
    else:
        with quiet_optuna():
            study = optuna.create_study(study_name=settings.name, storage=storage, directions=settings.directions)
    # The file comes last: a study killed between these lines is completed here by the next run.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(settings.objectives))
    store_settings(study, settings)
    return study
