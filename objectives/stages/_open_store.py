"""A store by what it is called on a command line: a folder, a URL, or a class of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from edgesearch.errors import StoreError
from edgesearch.objectives.stages._artifact import ArtifactStore
from edgesearch.objectives.stages._object_store import ObjectStore
from edgesearch.objectives.stages._objects import is_url
from edgesearch.objectives.stages._store import Store
from edgesearch.plugins import calling, load


def is_folder(location: str) -> bool:
    """Whether `open_store` takes the location for the path of a folder."""
    path, plus, _ = location.partition("+")
    return "://" not in location and not (plus and ":" in path)


def open_store(
    location: str | Path, *, warn: Callable[[str], None] = lambda message: None, folder: Path | None = None
) -> ArtifactStore:
    """The store at `location`: a folder, by its path or as file:///PATH; any other URL of fsspec's, as s3://bucket/folder; or
    pkg.module:Class+LOCATION for a store of the user's own.

    Such a class, looked for in `folder` first, is called with (LOCATION, warn=...). Raises StoreError for a folder that cannot
    be written, for a URL that does not serve, and for a class that fails or makes no store, PluginError for a class that cannot
    be imported.
    """
    text = str(location)
    if is_url(text):
        scheme, _, rest = text.partition("://")
        if scheme not in ("file", "local"):
            return ObjectStore(text, warn=warn)
        if not rest.startswith("/"):
            raise StoreError(f"the store {text!r} is no whole path; give file:///PATH, or the path alone")
        return Store(Path(rest), warn=warn)
    if "://" in text.partition("+")[0]:
        raise StoreError(f"the store {text!r} is no URL that can be used; give one as s3://bucket/folder, or a folder")
    if is_folder(text):
        return Store(Path(location), warn=warn)
    path, _, rest = text.partition("+")
    kind = cast("Callable[..., object]", load(path, folder=folder, noun="store"))
    with calling(f"store {path!r}", StoreError):
        store = kind(rest, warn=warn)
        is_store = isinstance(store, ArtifactStore)  # which asks its properties, the user's own code
    if not is_store:
        raise StoreError(f"store {path!r} made a {type(store).__name__}; expected what has all of an ArtifactStore's methods")
    return cast("ArtifactStore", store)
