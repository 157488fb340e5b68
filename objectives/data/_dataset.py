"""A data set and its four splits.

Training, validation, calibration and test images are disjoint, and chosen by the seed alone. Calibration images are taken out
of the training images although their labels are never read: a network fits the images that it was trained on, and its
activations there are not those of new images. Search reads `train`, `validation` and `calibration`. `test` is read once, for
the networks of the final front.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgesearch.errors import DataError
from edgesearch.objectives.data._images import Normalisation, resize
from edgesearch.objectives.data._sources import SOURCES, Images, Labels, RawData

__all__ = ["DataSet", "DataSettings", "Split", "load_data"]

#: What is set aside when a setting is left out: a share of the images, up to a number that measures well enough.
_TEST_SHARE = 5
_VALIDATION_SHARE, _VALIDATION_MOST = 5, 5_000
_CALIBRATION_SHARE, _CALIBRATION_MOST = 10, 256


class DataSettings(BaseModel):
    """Which images, and how many of them.

    name: "digits" (bundled), "mnist", "cifar10", "npz" (arrays in a file) or "folder" (pictures in a folder for each class).
    root: the file or folder; may be left out for digits, and with `download`.
    image_size: pixels of a side that all images are brought to; left out, images keep their size.
    train_images, validation_images, calibration_images, test_images: how many, drawn evenly from the classes. Left out:
    validation a fifth of the images, up to 5,000; calibration a tenth, up to 256; the rest for training; all test images.
    noise: standard deviation of normal noise added to every pixel of every split, where 1 is the way from black to white.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["digits", "mnist", "cifar10", "npz", "folder"] = "digits"
    root: Path | None = None
    download: bool = False
    image_size: int | None = Field(default=None, ge=4, le=1024)
    train_images: int | None = Field(default=None, ge=2)
    validation_images: int | None = Field(default=None, ge=1)
    calibration_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)
    noise: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) and labels int64 (N,), in an order in which every prefix is a fair sample."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """The splits of one data set; `fingerprint` is a SHA-256 over classes, normalisation, images, labels and split.

    Read `test` only to report what was already chosen.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]  # (height, width)
    train: Split
    validation: Split
    calibration: Split
    test: Split
    fingerprint: str
    fingerprints: Mapping[str, str]
    normalisation: Normalisation = field(default_factory=Normalisation)


def load_data(settings: DataSettings) -> DataSet:
    """The data set that `settings` describe.

    Raises DataError if it cannot be read, is empty, has wrong shapes or labels, a single class, or fewer images than asked for.
    """
    raw = SOURCES[settings.name](settings.root, settings.download, settings.image_size)
    _check(raw, settings.name)
    train, validation, calibration, test = (
        _finish(split, settings, part) for part, split in enumerate(_split(raw, settings), start=1)
    )
    height, width, channels = train.images.shape[1:]
    normalisation = Normalisation()
    digest = hashlib.sha256(repr((raw.classes, normalisation)).encode())
    splits = {"train": train, "validation": validation, "calibration": calibration, "test": test}
    fingerprints = {"meta": hashlib.sha256(repr((raw.classes, (height, width, channels), normalisation)).encode()).hexdigest()}
    for part, split in splits.items():
        content = repr(split.images.shape).encode() + split.images.tobytes() + split.labels.tobytes()
        fingerprints[part] = hashlib.sha256(content).hexdigest()
    for split in splits.values():
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return DataSet(
        name=settings.name,
        classes=raw.classes,
        channels=channels,
        size=(height, width),
        train=train,
        validation=validation,
        calibration=calibration,
        test=test,
        fingerprint=digest.hexdigest(),
        fingerprints=fingerprints,
        normalisation=normalisation,
    )


def _check(raw: RawData, name: str) -> None:
    parts = [("training", raw.train_images, raw.train_labels)]
    if raw.test_images is not None and raw.test_labels is not None:
        parts.append(("test", raw.test_images, raw.test_labels))
        if raw.test_images.shape[1:] != raw.train_images.shape[1:] and len(raw.test_images):
            raise DataError(
                f"the training images of {name!r} are {raw.train_images.shape[1:]} (height, width, channels) but its test "
                f"images {raw.test_images.shape[1:]}; both must agree"
            )
    for part, images, labels in parts:
        if not len(images):
            raise DataError(f"data set {name!r} has no {part} images")
        if len(images) != len(labels):
            raise DataError(f"data set {name!r} has {len(images)} {part} images but {len(labels)} labels for them")
        if labels.min() < 0 or labels.max() >= len(raw.classes):
            wrong = int(labels.min() if labels.min() < 0 else labels.max())
            raise DataError(f"a {part} label of {name!r} is {wrong}; expected 0 to {len(raw.classes) - 1}")
    if len(raw.classes) < 2:
        raise DataError(f"data set {name!r} has a single class, {raw.classes[0]!r}; classification needs at least two")
    empty = np.flatnonzero(np.bincount(raw.train_labels, minlength=len(raw.classes)) == 0)
    if len(empty):
        raise DataError(
            f"class {raw.classes[empty[0]]!r} of {name!r} has no training images; number the classes without gaps, or add some"
        )


def _split(raw: RawData, settings: DataSettings) -> tuple[Split, Split, Split, Split]:
    """Training, validation, calibration and test images, each a stratified sample."""
    rng = np.random.default_rng(settings.seed)
    left = rng.permutation(len(raw.train_labels))
    source = Split(raw.train_images, raw.train_labels)
    if raw.test_images is not None and raw.test_labels is not None:
        every = rng.permutation(len(raw.test_labels))
        chosen, _ = _take(raw.test_labels, every, settings.test_images or len(every), "test", settings)
        test = Split(raw.test_images[chosen], raw.test_labels[chosen])
    else:
        wanted = settings.test_images or max(1, len(left) // _TEST_SHARE)
        chosen, left = _take(source.labels, left, wanted, "test", settings)
        test = Split(source.images[chosen], source.labels[chosen])
    validation_count = settings.validation_images or max(1, min(_VALIDATION_MOST, len(left) // _VALIDATION_SHARE))
    calibration_count = settings.calibration_images or max(1, min(_CALIBRATION_MOST, len(left) // _CALIBRATION_SHARE))
    validation, left = _take(source.labels, left, validation_count, "validation", settings)
    calibration, left = _take(source.labels, left, calibration_count, "calibration", settings)
    train, _ = _take(source.labels, left, settings.train_images or max(2, len(left)), "training", settings)
    missing = set(range(len(raw.classes))) - set(source.labels[train].tolist())
    if missing:
        raise DataError(
            f"class {raw.classes[min(missing)]!r} of {settings.name!r} is left without training images by the splits; "
            "raise `train_images` or lower `validation_images` and `calibration_images`"
        )
    own = [Split(source.images[part], source.labels[part]) for part in (train, validation, calibration)]
    return own[0], own[1], own[2], test


def _take(
    labels: Labels, left: NDArray[np.int64], count: int, part: str, settings: DataSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`count` of the indices `left`, shared out over the classes by their sizes, and the others, both in their order."""
    if count > len(left):
        raise DataError(
            f"data set {settings.name!r} cannot give {count} {part} images: only {len(left)} are left after the other splits; "
            f"ask for fewer"
        )
    own = labels[left]
    sizes = np.bincount(own)
    quota = sizes * (count / len(left))
    counts = np.floor(quota).astype(np.int64)
    rest = np.argsort(-(quota - counts), kind="stable")[: count - int(counts.sum())]
    counts[rest] += 1
    rank = np.empty(len(left), np.int64)  # how many of the same class come before
    for label in np.flatnonzero(sizes):
        of_class = own == label
        rank[of_class] = np.arange(sizes[label])
    taken = rank < counts[own]
    return left[taken], left[~taken]


def _finish(split: Split, settings: DataSettings, part: int) -> Split:
    """The split at its final size and with its noise."""
    images = split.images if settings.image_size is None else resize(split.images, settings.image_size)
    if settings.noise:
        rng = np.random.default_rng([settings.seed, part])
        noisy = images + rng.normal(0.0, settings.noise * 255, images.shape).astype(np.float32)
        images = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return Split(np.ascontiguousarray(images), split.labels)
