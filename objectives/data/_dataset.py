"""A data set and its four splits.

Training, validation, calibration and test images are disjoint, and chosen by the seed alone. Calibration images are taken out
of the training images although their labels are never read: a network fits the images that it was trained on, and its
activations there are not those of new images. Search reads `train`, `validation` and `calibration`. `test` is read once, for
the networks of the final front.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgesearch.errors import DataError
from edgesearch.files import is_utf8
from edgesearch.objectives.data._images import resize
from edgesearch.objectives.data._normalisation import Normalisation, choose_normalisation
from edgesearch.objectives.data._settings import DataSettings
from edgesearch.objectives.data._source import RawData, Split
from edgesearch.objectives.data._sources import read_source
from edgesearch.objectives.data._splits import draw_splits
from edgesearch.objectives.data._view_kinds import choose_augmentation

__all__ = ["PARTS", "DataSet", "DataSettings", "Split", "load_data"]

#: The splits by name, in the order of their noise and of the fingerprint over all.
PARTS = ("train", "validation", "calibration", "test")
#: Class names that a note lists before it says how many more there are.
_LISTED = 5
#: A class with this share of the images, and with so many times an even one, makes accuracies hard to read.
_LOPSIDED, _FAR_FROM_EVEN = 0.5, 1.6
#: Images of another scale: their values spread this many times as far as those trained on, or lie so many spreads beside them.
_OTHER_SPREAD, _OTHER_LEVEL = 5.0, 2.0
#: Images of a split, and of each about so many rows and columns, that tell its scale; its beginning is a fair sample.
_SCALE_IMAGES, _SCALE_PIXELS = 500, 32


@dataclass(frozen=True)
class DataSet:
    """The splits of one data set.

    fingerprint: SHA-256 over classes, normalisation, images, labels and split.
    fingerprints: SHA-256 over the images and labels of each split ("train", "validation", "calibration", "test"), and over what
    a network's shape, input and training depend on ("meta": classes, channels, size, normalisation, and what augmentation
    "auto" means). A result is decided by those of the
    parts that it was made from. Where files lie is in none of them.
    notes: sentences for a person: what was left out, what cannot be measured well.
    preparation: how images came to the size and values they have here, in words.

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
    notes: tuple[str, ...] = ()
    preparation: str = ""


def load_data(settings: DataSettings, *, folder: Path | None = None) -> DataSet:
    """The data set that `settings` describe.

    `folder` is the study's: a source of the user's own is looked for there first, and relative paths in its options start
    there. Raises DataError if the data cannot be read, is empty, has wrong shapes or labels, a single class, or fewer images
    than asked for, and PluginError if there is no such source.
    """
    raw = read_source(settings, folder)
    _check(raw, settings)
    splits = {
        part: _finish(split, settings, number)
        for number, (part, split) in enumerate(zip(PARTS, draw_splits(raw, settings), strict=True), start=1)
    }
    train = splits["train"].images
    height, width, channels = train.shape[1:]
    normalisation = choose_normalisation(settings.normalisation, raw.normalisation, train)
    overall = hashlib.sha256(repr((raw.classes, normalisation)).encode())
    # The augmentation "auto" goes by the name, so images of one content under two names are trained on differently.
    meta = (raw.classes, channels, (height, width), normalisation, choose_augmentation("auto", settings.name))
    fingerprints = {"meta": hashlib.sha256(repr(meta).encode()).hexdigest()}
    for part, split in splits.items():
        digest = hashlib.sha256()
        for content in (repr(split.images.shape).encode(), split.images.data, split.labels.data):
            overall.update(content)
            digest.update(content)
        fingerprints[part] = digest.hexdigest()
    return DataSet(
        name=settings.name,
        classes=raw.classes,
        channels=channels,
        size=(height, width),
        train=splits["train"],
        validation=splits["validation"],
        calibration=splits["calibration"],
        test=splits["test"],
        fingerprint=overall.hexdigest(),
        fingerprints=fingerprints,
        normalisation=normalisation,
        notes=(*raw.notes, *_class_notes(raw, splits), *_scale_notes(splits)),
        preparation=_describe(raw, settings, (height, width)),
    )


def _check(raw: RawData, settings: DataSettings) -> None:
    name = settings.name
    if settings.own_validation and raw.validation is None:
        raise DataError(f"`own_validation`: data set {name!r} sets no validation images aside; leave it out")
    parts = [(part, split) for part, split in (("test", raw.test), ("validation", raw.validation)) if split is not None]
    for part, split in parts:
        if split.images.shape[1:] != raw.train.images.shape[1:] and len(split.images):
            raise DataError(
                f"the training images of {name!r} are {raw.train.images.shape[1:]} (height, width, channels) but its {part} "
                f"images {split.images.shape[1:]}; both must agree"
            )
    for part, split in (("training", raw.train), *parts):
        if not len(split.images):
            raise DataError(f"data set {name!r} has no {part} images")
        if split.names and len(split.names) != len(split.images):
            raise DataError(f"data set {name!r} has {len(split.images)} {part} images but {len(split.names)} names for them")
        if len(split.images) != len(split.labels):
            raise DataError(f"data set {name!r} has {len(split.images)} {part} images but {len(split.labels)} labels for them")
        if not raw.classes:
            raise DataError(f"data set {name!r} has no names of classes; give one for each number that its labels have")
        if split.labels.min() < 0 or split.labels.max() >= len(raw.classes):
            wrong = int(split.labels.min() if split.labels.min() < 0 else split.labels.max())
            raise DataError(f"a {part} label of {name!r} is {wrong}; expected 0 to {len(raw.classes) - 1}")
    if unwritable := [label for label in raw.classes if not is_utf8(label)]:
        raise DataError(
            f"the class {unwritable[0]!r} of {name!r} has a name that is not UTF-8; give it, or its folder, another"
        )
    names = [unicodedata.normalize("NFC", label).strip() for label in raw.classes]
    if "" in names:
        raise DataError(f"class {names.index('')} of {name!r} has no name; give it one")
    if len({*names}) < len(names):
        twice = next(label for label in names if names.count(label) > 1)
        raise DataError(f"two classes of {name!r} are called {twice!r}; give one of them another name")
    if len(raw.classes) < 2:
        raise DataError(f"data set {name!r} has a single class, {raw.classes[0]!r}; classification needs at least two")
    empty = np.flatnonzero(np.bincount(raw.train.labels, minlength=len(raw.classes)) == 0)
    if len(empty):
        numbered = raw.classes == tuple(map(str, range(len(raw.classes))))
        advice = "number the classes without gaps, or add some" if numbered else "add some, or take it out of the classes"
        raise DataError(f"class {raw.classes[empty[0]]!r} of {name!r} has no training images; {advice}")


def _finish(split: Split, settings: DataSettings, part: int) -> Split:
    """The split at its final size and with its noise."""
    images = split.images if settings.image_size is None else resize(split.images, settings.image_size)
    if settings.noise:
        rng = np.random.default_rng([settings.seed, part])
        noisy = images + rng.normal(0.0, settings.noise * 255, images.shape).astype(np.float32)
        images = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return Split(np.ascontiguousarray(images), np.ascontiguousarray(split.labels), split.names)


def _class_notes(raw: RawData, splits: Mapping[str, Split]) -> list[str]:
    """Classes that are too small to be measured, or so large that they hide the others."""

    def named(labels: list[int]) -> str:
        rest = len(labels) - _LISTED
        return ", ".join(raw.classes[k] for k in labels[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")

    counts = np.bincount(raw.train.labels, minlength=len(raw.classes))
    single = np.flatnonzero(counts == 1).tolist()
    notes = []
    if single:
        what = "a class has a single image" if len(single) == 1 else f"{len(single)} classes have a single image each"
        notes.append(f"{what} to train on: {named(single)}")
    for part in ("validation", "test"):
        absent = sorted(set(range(len(raw.classes))) - set(splits[part].labels.tolist()))
        if absent:
            notes.append(
                f"{len(absent)} of {len(raw.classes)} classes have no {part} image ({named(absent)}), so the {part} accuracy "
                "says nothing of them"
            )
    counts = np.bincount(splits["validation"].labels, minlength=len(raw.classes))
    share = float(counts.max() / counts.sum())
    if share >= max(_LOPSIDED, _FAR_FROM_EVEN / len(raw.classes)):
        notes.append(
            f"{share:.0%} of the validation images are of one class, {raw.classes[int(counts.argmax())]}: who always answers it"
            " reaches an accuracy of as much, so that one near it tells nothing"
        )
    return notes


def _scale_notes(splits: Mapping[str, Split]) -> list[str]:
    """Parts of which the values are so unlike those that networks are trained on that they must be on another scale."""
    mean, spread = _scale(splits["train"])
    notes = []
    for part in ("validation", "test"):
        other, its_spread = _scale(splits[part])
        unlike = max(spread, its_spread) > _OTHER_SPREAD * max(min(spread, its_spread), 1.0)
        if unlike or abs(other - mean) > _OTHER_LEVEL * max(spread, 1.0):
            notes.append(
                f"the {part} images have values around {other:.0f} (± {its_spread:.0f}) of 255, those to train on around "
                f"{mean:.0f} (± {spread:.0f}); if one of them is on another scale, bring both to one"
            )
    return notes


def _scale(split: Split) -> tuple[float, float]:
    """The mean of its values and how far they spread."""
    down, right = (max(1, side // _SCALE_PIXELS) for side in split.images.shape[1:3])
    values = split.images[:_SCALE_IMAGES, ::down, ::right]
    return float(values.mean()), float(values.std())


def _describe(raw: RawData, settings: DataSettings, size: tuple[int, int]) -> str:
    steps = [raw.preparation] if raw.preparation else []
    if raw.train.images.shape[1:3] != size:
        height, width = raw.train.images.shape[1:3]
        steps.append(
            f"images of {height} x {width} pixels (height x width) were resized to {size[0]} x {size[1]} without cropping "
            "(equal to Pillow's bilinear resize)"
        )
    if settings.noise:
        steps.append(f"normal noise of standard deviation {settings.noise:g} (1: from black to white) was added to every pixel")
    return "; ".join(steps) or "images are as they are stored"
