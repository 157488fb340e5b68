"""MNIST, and Fashion-MNIST, which comes in files of the same names and form."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesearch.errors import DataError
from edgesearch.files import cache_folder
from edgesearch.objectives.data._arrays import as_images, as_labels
from edgesearch.objectives.data._download import download
from edgesearch.objectives.data._source import Images, RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["FASHION_CLASSES", "read_fashion_mnist", "read_idx", "read_mnist"]

FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

#: Images and labels of both parts.
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_mnist(settings: DataSettings, folder: Path | None) -> RawData:
    """MNIST from its four IDX files, plain or gzip, in `root`, `root`/raw or `root`/MNIST/raw; downloaded if asked for."""
    return _read(settings, "MNIST", tuple("0123456789"))


def read_fashion_mnist(settings: DataSettings, folder: Path | None) -> RawData:
    """Fashion-MNIST likewise, in `root`, `root`/raw or `root`/FashionMNIST/raw."""
    return _read(settings, "FashionMNIST", FASHION_CLASSES)


def _read(settings: DataSettings, name: str, classes: tuple[str, ...]) -> RawData:
    """The data set that torchvision calls `name`."""
    place = settings.root or cache_folder(settings.name, error=DataError)
    if settings.download and any(_find_idx(place, name, file) is None for file in _FILES):
        download(name, place)
    try:
        arrays = _read_arrays(place, name)
    except DataError:
        if not settings.download:
            raise
        download(name, place)  # which brings anew what is not as it was published
        arrays = _read_arrays(place, name)
    train_images, train_labels, test_images, test_labels = arrays
    return RawData(
        classes,
        Split(as_images(train_images, f"{name} train images"), as_labels(train_labels, f"{name} train labels")),
        Split(as_images(test_images, f"{name} test images"), as_labels(test_labels, f"{name} test labels")),
    )


def _read_arrays(place: Path, name: str) -> list[Images]:
    arrays = []
    for file in _FILES:
        path = _find_idx(place, name, file)
        if path is None:
            raise DataError(
                f"no {name} in {place}: expected {file} or {file}.gz there; give the folder as `root`, or set `download = true`"
            )
        arrays.append(read_idx(path))
    return arrays


def _find_idx(folder: Path, name: str, file: str) -> Path | None:
    for place in (folder, folder / "raw", folder / name / "raw"):
        for path in (place / file, place / f"{file}.gz"):
            if path.is_file():
                return path
    return None


#: Axes of an IDX file: images and labels have three and one.
_MOST_AXES = 8


def read_idx(path: Path) -> Images:
    """One IDX file of bytes, plain or gzip (Y. LeCun's format: magic 0 0 8 ndim, big-endian sizes, data)."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; expected an IDX file, as MNIST comes in") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] > _MOST_AXES or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if data.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} holds {data.size} bytes of data where its header {shape} promises {np.prod(shape)}")
    return data.reshape(shape).copy()
