"""The data sources by name, and a user's own by import path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesearch.errors import DataError
from edgesearch.files import probing
from edgesearch.objectives.data._arrays import as_images, as_labels, dark_note, read_npz
from edgesearch.objectives.data._cifar10 import read_cifar10
from edgesearch.objectives.data._digits import read_digits
from edgesearch.objectives.data._folder import read_folder
from edgesearch.objectives.data._mnist import read_fashion_mnist, read_mnist
from edgesearch.objectives.data._normalisation import Normalisation
from edgesearch.objectives.data._source import DataSource, RawData, Split
from edgesearch.plugins import Registry, calling, is_import_path

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["BUILT_IN", "DATA_SOURCES", "READ_BY", "can_download", "read_source"]

#: `DATA_SOURCES.add` registers another in this process; a study, whose stages run in others, takes an import path.
DATA_SOURCES: Registry[DataSource] = Registry("data set")
DATA_SOURCES.add("digits", read_digits)
DATA_SOURCES.add("mnist", read_mnist)
DATA_SOURCES.add("fashion_mnist", read_fashion_mnist)
DATA_SOURCES.add("cifar10", read_cifar10)
DATA_SOURCES.add("npz", read_npz)
DATA_SOURCES.add("folder", read_folder)

#: The sources of this program, which take no `options`.
BUILT_IN = frozenset(DATA_SOURCES)
#: Kinds of things in a list that a sentence names.
_LISTED = 3
#: Of the settings that not every source reads, those that each source of this program does.
READ_BY: dict[str, frozenset[str]] = {
    "digits": frozenset(),
    "mnist": frozenset({"root", "download"}),
    "fashion_mnist": frozenset({"root", "download"}),
    "cifar10": frozenset({"root", "download", "white"}),  # `white` is of its archive of arrays
    "npz": frozenset({"root", "white"}),
    "folder": frozenset({"root", "white", "skip_unreadable"}),
}


def read_source(settings: DataSettings, folder: Path | None) -> RawData:
    """What the source that `settings` name reads, with images uint8 (N, H, W, C) and labels int64 (N,).

    Raises PluginError when there is no such source, DataError when it fails or gives something else than RawData.
    """
    source = DATA_SOURCES.find(settings.name, folder=folder)
    if not callable(source):
        raise DataError(f"data source {settings.name!r} is {source!r}; expected a function of settings and folder")
    if not is_import_path(settings.name):
        with probing(f"data set {settings.name!r}", DataError):
            return _checked(source(settings, folder), settings)
    with calling(f"data source {settings.name!r}", DataError):
        raw = source(settings, folder)
    return _checked(raw, settings)


def _checked(raw: object, settings: DataSettings) -> RawData:
    if not isinstance(raw, RawData):
        raise DataError(
            f"data source {settings.name!r} gave {type(raw).__name__}; expected edgesearch.objectives.data.RawData with "
            "classes and a train split"
        )

    def part(split: Split | None, name: str) -> Split | None:
        if split is None:
            return None
        if not isinstance(split, Split):
            raise DataError(f"{name} of data source {settings.name!r} is {type(split).__name__}; expected a Split")
        where = f"{settings.name} {name}"
        images = _array(split.images, f"{where} images", "one array of images of one size: numpy.stack(images)")
        labels = _array(split.labels, f"{where} labels", "one array with a number for each image")
        white = None if images.dtype == np.uint8 else settings.white  # the source has scaled what it gives as bytes
        names = _texts(split.names, f"{where} names", "a tuple of a name for each image, or () where they have none")
        return Split(as_images(images, f"{where} images", white), as_labels(labels, f"{where} labels"), names)

    train = part(raw.train, "train")
    if train is None:
        raise DataError(f"data source {settings.name!r} gave no train split; images are drawn from it")
    if raw.normalisation is not None and not isinstance(raw.normalisation, Normalisation):
        raise DataError(
            f"normalisation of data source {settings.name!r} is {raw.normalisation!r}; expected edgesearch.objectives.data."
            "Normalisation(mean, std)"
        )
    if raw.preparation and not isinstance(raw.preparation, str):
        raise DataError(f"{settings.name} preparation is {raw.preparation!r}; expected a sentence, or ''")
    own = [] if settings.name in BUILT_IN else dark_note(train.images)
    return RawData(
        classes=_texts(raw.classes, f"{settings.name} classes", "a tuple of the classes' names"),
        train=train,
        test=part(raw.test, "test"),
        validation=part(raw.validation, "validation"),
        normalisation=raw.normalisation,
        notes=(*_texts(raw.notes, f"{settings.name} notes", "a tuple of sentences"), *own),
        preparation=raw.preparation or "",
    )


def _array(given: object, where: str, expected: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (Exception, SystemExit) as error:  # whatever the user's own objects raise
        raise DataError(f"{where} are {_told(given)}, which make no array; expected {expected}") from error


def _texts(given: object, where: str, expected: str) -> tuple[str, ...]:
    # a set has no order, and of a mapping nobody knows which side names the classes
    if isinstance(given, str | bytes | AbstractSet | Mapping) or not isinstance(given, Iterable):
        raise DataError(f"{where} is {_told(given)}; expected {expected}")
    return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in given)


def _told(given: object) -> str:
    """What was given, in a few words."""
    if not isinstance(given, list | tuple):
        return repr(given)
    kinds = sorted({f"{type(item).__name__} {getattr(item, 'shape', '')}".strip() for item in given})
    return f"a {type(given).__name__} of {', '.join(kinds[:_LISTED])}{', ...' if len(kinds) > _LISTED else ''}"


def can_download(name: str) -> bool:
    """Whether a data set of this name can be brought from the network."""
    return "download" in READ_BY.get(name, ())
