"""What a data source is: a function from settings to the images and labels that they name.

A source of a user's own is named by its import path, `my_pkg.module:load`, and found in the study's folder first. It reads; it
draws no splits but those that the data come in. `load_data` checks what it returns, draws the rest, and resizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgesearch.objectives.data._normalisation import Normalisation
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["DataSource", "Images", "Labels", "RawData", "Split"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) and labels int64 (N,).

    names: what each image is called where it comes from, a file's path for example; () where a number has to do.
    In a `DataSet` they are in an order in which every prefix is a fair sample, and each has a name.
    """

    images: Images
    labels: Labels
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RawData:
    """What a source gives: images uint8 (N, H, W, C) with C 1 or 3 and labels int64 (N,) that index `classes`.

    Arrays that `as_images` and `as_labels` accept do as well (floats from 0 to 1, images without a channel axis).
    train: what training, validation and calibration images are drawn from.
    test, validation: parts that the data set itself sets aside; None: they are drawn from `train`.
    normalisation: the data set's usual one, if it has one; a study's settings go before it.
    notes: sentences that a person should read, such as which files were left out.
    preparation: how the source brought images to their size, as a sentence; "" if it left them as they were.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    validation: Split | None = None
    normalisation: Normalisation | None = None
    notes: tuple[str, ...] = ()
    preparation: str = ""


class DataSource(Protocol):
    """Reads a data set.

    settings: the study's [data] table; `settings.root`, `settings.options` and `settings.image_size` are meant for sources.
    folder: the study's folder, where relative paths in `options` start; None if there is no study.
    The result depends on nothing but the settings and the files they name. Raises DataError for what cannot be used.
    """

    def __call__(self, settings: DataSettings, folder: Path | None) -> RawData:
        """Images and labels as they are stored."""
        ...
