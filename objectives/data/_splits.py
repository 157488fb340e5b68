"""Which images train, validate, calibrate and test: disjoint, stratified, chosen by the seed alone.

Three streams of random numbers order three sets of images: those to train on, the test images and the validation images that
a data set sets aside. So the number of test images changes no other split where a data set has test images of its own. Where it
has none, all splits come out of one set: a fifth of it is set aside first, and up to as many test images are taken of that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgesearch.errors import DataError
from edgesearch.objectives.data._settings import DataSettings
from edgesearch.objectives.data._source import Labels, RawData, Split

__all__ = ["draw_splits"]

#: What is set aside when a setting is left out: a share of the images, up to a number that measures well enough.
_TEST_SHARE = 5
_VALIDATION_SHARE, _VALIDATION_MOST = 5, 5_000
_CALIBRATION_SHARE, _CALIBRATION_MOST = 10, 256
#: The stream of a data set's own validation images.
_VALIDATION_STREAM = 7

_Indices = NDArray[np.int64]


def draw_splits(raw: RawData, settings: DataSettings) -> tuple[Split, Split, Split, Split]:
    """Training, validation, calibration and test images, each a stratified sample.

    Raises DataError when there are fewer images than asked for, or a class is left without training images.
    """
    rng = np.random.default_rng(settings.seed)
    source = _named(raw.train, "train")
    left = rng.permutation(len(source))
    if raw.test is not None:
        test = _sample(_named(raw.test, "test"), rng.permutation(len(raw.test)), settings.test_images, "test", settings)
    else:
        chosen, left = _take_test(source.labels, left, settings, own=raw.validation is not None)
        test = _pick(source, chosen)
    validation_count, calibration_count = _counts(len(left), settings, own=raw.validation is not None)
    if raw.validation is not None:
        order = np.random.default_rng([settings.seed, _VALIDATION_STREAM]).permutation(len(raw.validation))
        validation = _sample(_named(raw.validation, "validation"), order, settings.validation_images, "validation", settings)
    else:
        chosen, left = _take(source.labels, left, validation_count, "validation", settings)
        validation = _pick(source, chosen)
    if settings.calibration_images is None and calibration_count >= len(left):  # so many validation images were asked for
        calibration_count = max(1, len(left) // _CALIBRATION_SHARE)
    calibration, left = _take(source.labels, left, calibration_count, "calibration", settings)
    train, _ = _take(source.labels, left, settings.train_images or max(2, len(left)), "training", settings)
    _refuse_lost_classes(raw, train, settings)
    return _pick(source, train), validation, _pick(source, calibration), test


def _counts(left: int, settings: DataSettings, *, own: bool) -> tuple[int, int]:
    """How many of the images left validate and calibrate; none of them validates where the data set has its `own` for that."""
    validation = settings.validation_images or max(1, min(_VALIDATION_MOST, left // _VALIDATION_SHARE))
    calibration = settings.calibration_images or max(1, min(_CALIBRATION_MOST, left // _CALIBRATION_SHARE))
    return 0 if own else validation, calibration


def _take_test(labels: Labels, left: _Indices, settings: DataSettings, *, own: bool) -> tuple[_Indices, _Indices]:
    """The test images, and what the other splits come out of.

    That is what a fifth leaves, whatever number is asked for. Where more test images are asked for, where the others would not
    suffice, and with `test_first` it is all that the test images leave.
    """
    fifth = max(1, len(left) // _TEST_SHARE)
    wanted = settings.test_images or fifth
    others = (settings.train_images or 2) + sum(_counts(len(left) - fifth, settings, own=own))
    if settings.test_first or wanted >= fifth or others > len(left) - fifth:
        return _take(labels, left, wanted, "test", settings)
    aside, others_from = _take(labels, left, fifth, "test", settings)
    return _take(labels, aside, wanted, "test", settings)[0], others_from


def _named(split: Split, part: str) -> Split:
    """The split with names for its images; without a name of its own, an image has its part's and its number."""
    return replace(split, names=split.names or tuple(f"{part} {number}" for number in range(len(split))))


def _pick(split: Split, index: _Indices) -> Split:
    return Split(split.images[index], split.labels[index], tuple(split.names[place] for place in index.tolist()))


def _sample(split: Split, order: _Indices, count: int | None, part: str, settings: DataSettings) -> Split:
    chosen, _ = _take(split.labels, order, count or len(order), part, settings)
    return _pick(split, chosen)


def _take(labels: Labels, left: _Indices, count: int, part: str, settings: DataSettings) -> tuple[_Indices, _Indices]:
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


def _refuse_lost_classes(raw: RawData, train: _Indices, settings: DataSettings) -> None:
    missing = set(range(len(raw.classes))) - set(raw.train.labels[train].tolist())
    if missing:
        label = min(missing)
        count = int((raw.train.labels == label).sum())
        others = ["test_images"] if raw.test is None else []
        others += ["validation_images"] if raw.validation is None else []
        *most, last = [f"`{name}`" for name in (*others, "calibration_images")]
        raise DataError(
            f"class {raw.classes[label]!r} of {settings.name!r} is left without training images by the splits (of {count}); "
            f"add images of it or leave it out, raise `train_images`, or lower {', '.join(most)}{' and ' if most else ''}{last}"
        )
