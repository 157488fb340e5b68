"""CIFAR-10 in the forms that it is published in."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesearch.errors import DataError
from edgesearch.files import cache_folder
from edgesearch.objectives.data._arrays import read_npz
from edgesearch.objectives.data._download import download
from edgesearch.objectives.data._source import RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["CIFAR10_CLASSES", "read_cifar10"]

#: Files that a sentence names before it says how many more there are.
_NAMED = 2

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(settings: DataSettings, folder: Path | None) -> RawData:
    """CIFAR-10 in any of its forms.

    `root` holds torchvision's cifar-10-batches-py, or is that folder (its files are verified before they are read), or holds
    the binary batches; or it is an .npz, or holds a cifar10.npz.
    """
    place = settings.root or cache_folder("cifar10", error=DataError)
    place = place.parent if place.name == "cifar-10-batches-py" else place
    archive = place if place.suffix == ".npz" else place / "cifar10.npz"
    if place.suffix == ".npz":
        return _read_archive(settings, archive, folder)
    batches = next((p for p in (place, place / "cifar-10-batches-bin") if (p / "data_batch_1.bin").is_file()), None)
    if batches is None and archive.is_file():
        return _read_archive(settings, archive, folder)
    if batches is not None or settings.download or (place / "cifar-10-batches-py").is_dir():
        if settings.white is not None:
            raise DataError(f"`white` is {settings.white:g}, and the files of CIFAR-10 in {place} hold bytes; leave it out")
        return _read_torchvision(settings, place) if batches is None else _read_binary(batches)
    raise DataError(
        f"no CIFAR-10 in {place}: expected cifar-10-batches-py, cifar-10-batches-bin or cifar10.npz there; "
        "give the folder as `root`, or set `download = true`"
    )


def _read_archive(settings: DataSettings, archive: Path, folder: Path | None) -> RawData:
    raw = read_npz(settings.model_copy(update={"root": archive}), folder)
    numbered = tuple(map(str, range(len(raw.classes))))
    if raw.classes not in (CIFAR10_CLASSES, numbered):
        names = ", ".join(raw.classes[:_NAMED])
        raise DataError(
            f"{archive} names classes of its own ({names}, ...), which are not CIFAR-10's in their order; read it with "
            'name = "npz"'
        )
    return replace(raw, classes=CIFAR10_CLASSES)


def _read_binary(folder: Path) -> RawData:
    def batch(name: str) -> Split:
        try:
            data = np.fromfile(folder / name, np.uint8)
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error}") from error
        if data.size == 0 or data.size % 3073:
            raise DataError(f"{folder / name} has {data.size} bytes, which is not a whole number of 3,073-byte records")
        records = data.reshape(-1, 3073)
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(pixels), records[:, 0].astype(np.int64))

    batches = [batch(f"data_batch_{k}.bin") for k in range(1, 6)]
    train = Split(np.concatenate([b.images for b in batches]), np.concatenate([b.labels for b in batches]))
    return RawData(CIFAR10_CLASSES, train, batch("test_batch.bin"))


def _read_torchvision(settings: DataSettings, folder: Path) -> RawData:
    from edgesearch.plugins import import_torchvision

    dataset = import_torchvision("datasets").CIFAR10
    if settings.download and not _is_unpacked(dataset, folder):
        download("CIFAR10", folder)
    try:  # torchvision compares every file with its md5 sum before it opens it, and unpacks those that differ
        parts = [dataset(str(folder), train=train, download=settings.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise _refusal(dataset, folder, error, may_download=settings.download) from error
    train, test = (Split(part.data, np.asarray(part.targets, np.int64)) for part in parts)
    return RawData(CIFAR10_CLASSES, train, test)


def _refusal(dataset: Any, folder: Path, error: Exception, *, may_download: bool) -> DataError:
    """What is wrong in the folder, by the files' names and MD5 sums; the error's own words where they are as they should be."""
    place = folder / dataset.base_folder
    expected = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    wrong = [f"{name} {fault}" for name, md5 in expected if (fault := _fault(place / name, md5))]
    if not wrong:
        return DataError(f"cannot read CIFAR-10 in {place}: {error}")
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    advice = "" if may_download else ", or set `download = true`"
    return DataError(f"cannot read CIFAR-10 in {place}: {', '.join(wrong[:_NAMED])}{more}; copy the folder again{advice}")


def _fault(file: Path, md5: str) -> str:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "md5").hexdigest()
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "" if found == md5 else "differs from the published file (another MD5 sum)"


def _is_unpacked(dataset: Any, folder: Path) -> bool:
    """Whether all files are there as they should be, so that no archive is needed."""
    try:
        dataset(str(folder))
    except (RuntimeError, OSError):
        return False
    return True
