"""Finding a stored study, to read it."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage

from edgesearch.errors import StudyError
from edgesearch.search.study import Home, has_settings, holds_studies, last_use, open_read_only, quiet_optuna, reading_errors


def find_study(name: str | None, storage: str | None, home: Home) -> optuna.Study:
    """The named study, or the one of this program that was run last; it cannot be written.

    Raises StudyError when there is none.
    """
    if storage is None and not _has_database(home):
        raise StudyError(f"there are no studies in {str(home.root)!r}; run `edgesearch optimize` first, or give --home")
    database = open_read_only(storage or home.database)
    with reading_errors(storage or home.database):
        names = sorted(study.study_name for study in database.get_all_studies())
        if name is not None:
            if name not in names:
                known = ", ".join(names) or "none"
                raise StudyError(f"there is no study {name!r} here (there is: {known}); run `edgesearch optimize` first")
            return _open(name, database)
        if not names:
            where = "this storage" if storage else repr(str(home.root))
            raise StudyError(f"there are no studies in {where}; run `edgesearch optimize` first")
        studies = [_open(name, database) for name in names]
        return max([study for study in studies if has_settings(study)] or studies, key=last_use)


def is_stored(name: str, storage: str | None, home: Home) -> bool:
    """Whether the study was begun."""
    if not holds_studies(storage or home.database):
        return False
    database = open_read_only(storage or home.database)
    with reading_errors(storage or home.database):
        return name in {study.study_name for study in database.get_all_studies()}


def stored_study(name: str, storage: str | None, home: Home) -> optuna.Study | None:
    """The study, to be read; None where it was not begun."""
    with quiet_optuna():
        return find_study(name, storage, home) if is_stored(name, storage, home) else None


def _has_database(home: Home) -> bool:
    try:
        return (home.folder / "studies.db").exists()
    except PermissionError:  # which `open_read_only` says
        return True


def _open(name: str, database: BaseStorage) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=database)
