"""The data sources by name, and a user's own by import path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesearch.errors import DataError, EdgesearchError
from edgesearch.objectives.data._arrays import as_images, as_labels, read_npz
from edgesearch.objectives.data._cifar10 import read_cifar10
from edgesearch.objectives.data._digits import read_digits
from edgesearch.objectives.data._folder import read_folder
from edgesearch.objectives.data._mnist import read_fashion_mnist, read_mnist
from edgesearch.objectives.data._normalisation import Normalisation
from edgesearch.objectives.data._source import DataSource, RawData, Split
from edgesearch.plugins import Registry, is_import_path

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["BUILT_IN", "DATA_SOURCES", "READ_BY", "read_source"]

DATA_SOURCES: Registry[DataSource] = Registry("data set")
DATA_SOURCES.add("digits", read_digits)
DATA_SOURCES.add("mnist", read_mnist)
DATA_SOURCES.add("fashion_mnist", read_fashion_mnist)
DATA_SOURCES.add("cifar10", read_cifar10)
DATA_SOURCES.add("npz", read_npz)
DATA_SOURCES.add("folder", read_folder)

#: The sources of this program, which take no `options`.
BUILT_IN = frozenset(DATA_SOURCES)
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
        return _checked(source(settings, folder), settings)
    try:
        raw = source(settings, folder)
    except EdgesearchError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise DataError(f"data source {settings.name!r} failed: {type(error).__name__}: {error}{_where(error)}") from error
    return _checked(raw, settings)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"


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
        images, labels = np.asarray(split.images), np.asarray(split.labels)
        names = tuple(map(str, split.names))
        return Split(as_images(images, f"{where} images", settings.white), as_labels(labels, f"{where} labels"), names)

    train = part(raw.train, "train")
    if train is None:
        raise DataError(f"data source {settings.name!r} gave no train split; images are drawn from it")
    if raw.normalisation is not None and not isinstance(raw.normalisation, Normalisation):
        raise DataError(
            f"normalisation of data source {settings.name!r} is {raw.normalisation!r}; expected edgesearch.objectives.data."
            "Normalisation(mean, std)"
        )
    return RawData(
        classes=tuple(map(str, raw.classes)),
        train=train,
        test=part(raw.test, "test"),
        validation=part(raw.validation, "validation"),
        normalisation=raw.normalisation,
        notes=tuple(raw.notes),
        preparation=raw.preparation,
    )
