"""The scale on which a network sees pixels, and how a study names it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgesearch.errors import DataError, SettingsError
from edgesearch.objectives.data._source import Images

__all__ = ["Normalisation", "NormalisationChoice", "choose_normalisation", "imagenet_normalisation", "measure"]

#: Pixels are divided by no less, since they would be beyond float32.
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class Normalisation:
    """A byte u becomes (u / 255 - mean) / std; one mean and std, or one for each channel. The default gives -1..1.

    Raises SettingsError unless all are finite, every std is a millionth or more, and there are as many means as stds.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # plain floats, so that equal numbers are written alike wherever they come from
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise SettingsError(
                f"normalisation has {len(self.mean)} values of `mean` and {len(self.std)} of `std`; give one of each, or one "
                "of each for every channel"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise SettingsError(f"normalisation has a value that is not finite: mean {list(self.mean)}, std {list(self.std)}")
        if min(self.mean) < 0 or max(self.mean) > 1:
            raise SettingsError(
                f"normalisation has mean {list(self.mean)}; pixels are from 0 to 1, and so are means: divide a byte's by 255"
            )
        if min(self.std) <= 0:
            raise SettingsError(f"normalisation has std {list(self.std)}; every std must be above 0")
        if min(self.std) < _LEAST_STD:
            raise SettingsError(
                f"normalisation has std {list(self.std)}; pixels are from 0 to 1, give stds of {_LEAST_STD:g} or more"
            )


#: What a study may say: the data set's own (measured on the training images), ImageNet's, or numbers.
NormalisationChoice = Literal["imagenet", "data"] | Normalisation

#: Of the training images of ImageNet, as all published ImageNet weights expect them.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def imagenet_normalisation(channels: int) -> Normalisation:
    """ImageNet's; for images of one channel the means over its three colours."""
    if channels == 1:
        return Normalisation(*((round(sum(values) / len(values), 3),) for values in (IMAGENET.mean, IMAGENET.std)))
    return IMAGENET


def parse_choice(given: object) -> NormalisationChoice | None:
    """The choice that a study file writes as "imagenet", "data" or { mean = [...], std = [...] }; ValueError for others."""
    if given is None or given in ("imagenet", "data") or isinstance(given, Normalisation):
        return given
    if isinstance(given, dict) and set(given) == {"mean", "std"}:
        mean, std = (_numbers(given[name]) for name in ("mean", "std"))
        if mean is not None and std is not None:
            return Normalisation(mean, std)
    raise ValueError(f'{given!r} is no normalisation; expected "imagenet", "data" or {{ mean = [0.5], std = [0.5] }}')


def _numbers(given: object) -> tuple[float, ...] | None:
    values = given if isinstance(given, list | tuple) else [given]
    try:
        numbers = tuple(float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool))
    except OverflowError:  # of a whole number
        return None
    return numbers if len(numbers) == len(values) else None


def measure(images: Images) -> Normalisation:
    """Mean and standard deviation of each channel of images uint8 (N, H, W, C), from exact sums.

    Raises DataError for a channel that is the same everywhere.
    """
    means, stds = [], []
    levels = range(256)
    for channel in range(images.shape[3]):
        counts = [int(count) for count in np.bincount(images[..., channel].ravel(), minlength=256)]
        pixels = sum(counts)
        total = sum(level * count for level, count in zip(levels, counts, strict=True))
        squares = sum(level * level * count for level, count in zip(levels, counts, strict=True))
        variance = pixels * squares - total * total  # times pixels^2
        if not variance:
            raise DataError(
                f'`normalisation = "data"`: channel {channel} of the training images is {total // pixels} everywhere, so it '
                "has no standard deviation; give numbers for mean and std"
            )
        means.append(total / pixels / 255)
        stds.append(math.sqrt(variance) / pixels / 255)
    return Normalisation(tuple(means), tuple(stds))


def choose_normalisation(asked: NormalisationChoice | None, usual: Normalisation | None, train: Images) -> Normalisation:
    """The normalisation that a study asked for, else the data set's usual one, else -1..1; `train` uint8 (N, H, W, C).

    Raises DataError when it has another number of channels than the images.
    """
    if asked == "data":
        return measure(train)
    channels = train.shape[3]
    chosen = imagenet_normalisation(channels) if asked == "imagenet" else asked or usual or Normalisation()
    if len(chosen.mean) not in (1, channels):
        what = '"imagenet"' if asked == "imagenet" else f"mean {list(chosen.mean)}"
        raise DataError(
            f"normalisation {what} is for {len(chosen.mean)} channels but the images have {channels}; give one mean and std, "
            f'or {channels} of each, or "data"'
        )
    return chosen
