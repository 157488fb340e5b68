"""Where a study's artifacts are: in the home, or where the study or the command line says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

from edgesearch.errors import StoreError, StudyError
from edgesearch.files import expanded, probing
from edgesearch.objectives import ArtifactStore, is_folder, open_store
from edgesearch.search.study import Home, StudyFile, stored_settings

__all__ = ["existing_store", "no_store", "refuse_lost_store", "store_place", "study_store"]


def store_place(given: str | Path) -> str:
    """A store that was given, as another process finds it: a folder by its whole path, a URL as it is.

    Raises StoreError for a folder of a user that is not there.
    """
    return str(expanded(given, "store", StoreError).absolute()) if is_folder(str(given)) else str(given)


def study_store(
    settings: StudyFile, home: Home, *, stored: optuna.Study | None = None, warn: Callable[[str], None]
) -> ArtifactStore:
    """The store of a study: the one that its settings name, else the one that it was run with, else its home's.

    Raises StoreError for one that cannot be used, StudyError for one that its workers would not see.
    """
    named = _place(settings, home, stored)
    if named.startswith("memory://"):
        raise StudyError(
            f"the store {named} is seen by one process alone, and stages run in processes of their own; give a folder or the "
            "URL of an object store, as s3://bucket/folder"
        )
    return open_store(named, warn=warn, folder=settings.folder)


def _place(settings: StudyFile, home: Home, stored: optuna.Study | None) -> str:
    return settings.store or (stored_settings(stored).store if stored is not None else "") or str(home.store)


def existing_store(
    settings: StudyFile, home: Home, *, stored: optuna.Study | None = None, warn: Callable[[str], None]
) -> ArtifactStore | None:
    """The store of a study, to be read; None where it is a folder that is not there. Nothing is made."""
    place = _place(settings, home, stored)
    with probing("store", StoreError):
        is_there = not is_folder(place) or expanded(place, "store", StoreError).is_dir()
    return study_store(settings, home, stored=stored, warn=warn) if is_there else None


def refuse_lost_store(settings: StudyFile, home: Home, stored: optuna.Study) -> None:
    """Raise StudyError where the store that a stored study with complete trials was run with is not there any more: it would be
    made anew, and all in it, because a disk is not mounted. One in the home is part of it.
    """
    if TrialState.COMPLETE not in {trial.state for trial in stored.get_trials(deepcopy=False)}:
        return
    place = _place(settings, home, stored)
    if place != stored_settings(stored).store or not is_folder(place):
        return
    with probing("store", StoreError):
        if not expanded(place, "store", StoreError).is_dir():
            raise StudyError(f"{no_store(settings, home, stored)} Make an empty folder there to begin a new one")


def no_store(settings: StudyFile, home: Home, stored: optuna.Study | None) -> str:
    """A sentence on a store that is not there."""
    place = _place(settings, home, stored)
    if place == str(home.store):
        return f"there is no store at {place}; give the home that the study was run with"
    return f"there is no store at {place}, where the study has its own; is it on a disk that is not mounted?"
