"""A study's storage that can be read and not written, by Optuna's own interface."""

from __future__ import annotations

import copy
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool, QueuePool

from edgesearch.errors import StudyError
from edgesearch.search.study._database import Database
from edgesearch.search.study._errors import READING_ERRORS, database_reason, driver_hint, parse_url, shown_url

#: Where Optuna 5 keeps constraints (one attribute each, under their names) and where optuna-dashboard looks for them (a list).
_CONSTRAINTS = "constraints"
#: The note is made anew when it is older than this many seconds.
_NOTE_AGE = 10.0
#: Bytes 18 and 19 of an SQLite file that is written and read through a log of changes.
_WAL_MODE = b"\2\2"


def open_read_only(url: str, *, stays_open: bool = False) -> BaseStorage:
    """The storage at a SQLAlchemy URL, for reading; what was read of finished trials is kept, and no connection unless it
    `stays_open`.

    SQLite files are opened with mode=ro: SQLite itself refuses every write; also where the folder cannot be written and no run
    left a log of changes there. PostgreSQL sessions are made read-only. For other
    databases nothing but `ReadOnlyStudy` stands between the reader and the data; give the URL of a role that may only read.
    Raises StudyError when there is no such database or it is not Optuna's.
    """
    parsed = parse_url(url)
    shown = shown_url(url)
    try:
        storage = Database(*_read_only_engine(url, parsed, stays_open=stays_open), skip_table_creation=True)
    except ImportError as error:
        hint = driver_hint(url)
        raise StudyError(f"--storage {shown} needs a driver that is not installed; {hint}") from error
    except (*READING_ERRORS, RuntimeError) as error:
        file = parsed.get_backend_name() == "sqlite"
        advice = "check that it is a study's database and may be read" if file else "check the URL and that it runs"
        raise StudyError(f"--storage {shown} cannot be read: {database_reason(error)}; {advice}") from error
    return optuna.storages.get_storage(storage)


def holds_studies(url: str) -> bool:
    """Whether the database has tables of studies; one that no study was begun in has none, or is not there yet.

    True also for one that cannot be looked into: `open_read_only` says why.
    """
    try:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            return False
        address, options = _read_only_engine(url, parsed)
        engine = create_engine(address, **options)
        try:
            return bool(inspect(engine).has_table("studies"))
        finally:
            engine.dispose()
    except (ImportError, StudyError, *READING_ERRORS):
        return True


def _read_only_engine(url: str, parsed: URL, *, stays_open: bool = False) -> tuple[str, dict[str, Any]]:
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.is_file():
            raise StudyError(f"there is no database {str(path)!r}; run `edgesearch optimize` first, or check --storage")

        def connect() -> sqlite3.Connection:
            mode = "mode=ro&immutable=1" if _is_at_rest(path.resolve()) else "mode=ro"
            return sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True, check_same_thread=False)

        # Who may write there can begin to: a file that was at rest for one connection need not be for the next.
        pool = QueuePool if stays_open and os.access(path.resolve().parent, os.W_OK) else NullPool
        return "sqlite:///read-only", {"creator": connect, "poolclass": pool}
    options: dict[str, Any] = {} if stays_open else {"poolclass": NullPool}
    if parsed.get_backend_name() == "postgresql":
        given = " ".join(_as_list(parsed.query.get("options", ())))
        options["connect_args"] = {"options": f"{given} -c default_transaction_read_only=on".lstrip()}
    return url, options


def _as_list(value: str | tuple[str, ...]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _is_at_rest(file: Path) -> bool:
    """Whether a database file has to be read as one that nobody changes: its log of changes (WAL) cannot be made.

    Readers make the log where the last writer took it away, which they cannot in a folder that they may not write. Nothing is
    in it then. One that is there, or a journal, is read, or refused, by SQLite itself.
    """
    if os.access(file.parent, os.W_OK):
        return False
    left = [file.with_name(f"{file.name}-{kind}") for kind in ("wal", "journal")]
    if any(other.exists() and other.stat().st_size for other in left):
        return False
    with file.open("rb") as opened:
        return opened.read(20)[18:] == _WAL_MODE


class ReadOnlyStudy(BaseStorage):
    """One study of a storage, as a storage of its own: every method that writes raises StudyError.

    Two things are added while reading, because optuna-dashboard does not show Optuna 5's constraints: the values of each
    trial's constraints in the form that it reads (at most zero: kept), in the order of their names, and a note about the study.
    """

    def __init__(self, backend: BaseStorage, study_name: str, note: Callable[[optuna.Study], str]) -> None:
        names = sorted(study.study_name for study in backend.get_all_studies())
        if study_name not in names:
            raise StudyError(f"there is no study {study_name!r} here (there is: {', '.join(names) or 'none'})")
        self._backend, self._name, self._make_note = backend, study_name, note
        self._note, self._noted = "", float("-inf")
        self._lock = threading.Lock()

    # --- reading

    def get_all_studies(self) -> list[FrozenStudy]:
        """This study alone, with the note."""
        studies = [copy.copy(study) for study in self._backend.get_all_studies() if study.study_name == self._name]
        for study in studies:
            study.system_attrs = study.system_attrs | self._note_attributes()
        return studies

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials, with constraints as a list."""
        return [_with_constraint_list(t) for t in self._backend.get_all_trials(study_id, deepcopy=deepcopy, states=states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, with constraints as a list."""
        return _with_constraint_list(self._backend.get_trial(trial_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's own attributes of the study, and the note."""
        return dict(self._backend.get_study_system_attrs(study_id)) | self._note_attributes()

    def get_study_id_from_name(self, study_name: str) -> int:
        """Optuna's number for the study."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """The study's name."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Whether each objective is maximised or minimised."""
        return self._backend.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The attributes that edgesearch gave the study."""
        return self._backend.get_study_user_attrs(study_id)

    def remove_session(self) -> None:
        """Give the thread's connection back."""
        self._backend.remove_session()

    def _note_attributes(self) -> dict[str, Any]:
        """The note as optuna-dashboard stores one; made anew now and then, since it counts trials."""
        with self._lock:
            if time.monotonic() - self._noted > _NOTE_AGE:
                self._note = self._make_note(optuna.load_study(study_name=self._name, storage=self._backend))
                self._noted = time.monotonic()
            return {"dashboard:note_ver": 1, "dashboard:note_str:0": self._note}

    # --- writing

    def _refuse(self) -> NoReturn:
        raise StudyError(f"study {self._name!r} is shown here, not changed; `edgesearch optimize` alone writes it")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refused."""
        self._refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused."""
        self._refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused."""
        self._refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Refused."""
        self._refuse()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Refused."""
        self._refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Refused."""
        self._refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()


def _with_constraint_list(trial: FrozenTrial) -> FrozenTrial:
    constraints = trial.constraints
    if not constraints:
        return trial
    shown = copy.copy(trial)
    others = {name: value for name, value in trial.system_attrs.items() if not name.startswith(f"{_CONSTRAINTS}:")}
    shown._system_attrs = others | {_CONSTRAINTS: [constraints[name] for name in sorted(constraints)]}
    return shown
