"""A data source by import path: the reference data's CIFAR-10, which is kept as lossless pictures of 100 x 100 images.

[data]
name = "cifar10_reference:load"      # in a study file beside this one; elsewhere, with this folder on PYTHONPATH
root = "../../shared/data/cifar10"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgesearch.errors import DataError
from edgesearch.objectives.data import DataSettings, RawData, Split

_SIDE, _TILES = 32, 100


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    """The 10,000 images of one picture, row by row: (10000, 32, 32, 3)."""
    try:
        with Image.open(path) as picture:
            grid = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if grid.shape != (_TILES * _SIDE, _TILES * _SIDE, 3):
        raise DataError(f"{path} is {grid.shape[1]} x {grid.shape[0]} pixels; expected 3200 x 3200")
    tiles = grid.reshape(_TILES, _SIDE, _TILES, _SIDE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, _SIDE, _SIDE, 3))


def labels(folder: Path, part: str) -> npt.NDArray[np.int64]:
    """The labels of "train" or "test"."""
    return np.load(folder / f"{part}_labels.npy").astype(np.int64)


def load(settings: DataSettings, folder: Path | None) -> RawData:
    """The five training pictures and the test picture in `settings.root`."""
    if settings.root is None:
        raise DataError("`root` is missing: the folder of train_1.webp to train_5.webp and test.webp")
    root = settings.root
    train = np.concatenate([pixels(root / f"train_{number}.webp") for number in range(1, 6)])
    classes = tuple((root / "classes.txt").read_text().split())
    return RawData(classes, Split(train, labels(root, "train")), Split(pixels(root / "test.webp"), labels(root, "test")))
