"""Where a study's artifacts are: in the home, or where the study or the command line says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna

from edgesearch.errors import StoreError, StudyError
from edgesearch.files import expanded
from edgesearch.objectives import ArtifactStore, is_folder, open_store
from edgesearch.search.study import Home, StudyFile, stored_settings

__all__ = ["existing_store", "store_place", "study_store"]


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
    named = settings.store or (stored_settings(stored).store if stored is not None else "")
    if named.startswith("memory://"):
        raise StudyError(
            f"the store {named} is seen by one process alone, and stages run in processes of their own; give a folder or the "
            "URL of an object store, as s3://bucket/folder"
        )
    return open_store(named or home.store, warn=warn, folder=settings.folder)


def existing_store(
    settings: StudyFile, home: Home, *, stored: optuna.Study | None = None, warn: Callable[[str], None]
) -> ArtifactStore | None:
    """The store of a study, to be read; None where that is its home's, and there is none."""
    named = settings.store or (stored is not None and stored_settings(stored).store)
    return study_store(settings, home, stored=stored, warn=warn) if named or home.store.is_dir() else None
