"""Whether one recipe is better than another, or was merely luckier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = ["Gain", "compare"]

#: How sure it must be, one-sided, that the recipe is better.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """By how much accuracy a recipe is ahead, 0..1, and what its seeds alone may give; None where there are too few of them."""

    value: float
    noise: float | None

    @property
    def is_real(self) -> bool:
        """Whether it is more than luck; where that is not known, whether there is any."""
        return self.value > (self.noise or 0.0)


def compare(own: Sequence[float], other: Sequence[float], *, images: int) -> Gain:
    """The gain of `other` over `own`: accuracies of trainings with different seeds, measured on `images` images.

    The first of `other` is the training that it was chosen by, and so a lucky one more often than not: where there are others,
    it does not count. Noise is Student's bound on a difference of two means with one variance, which is taken to be at least
    that of one image.
    """
    from scipy.stats import t

    fresh = list(other[1:]) or list(other)
    value = fmean(fresh) - fmean(own)
    freedom = len(own) + len(fresh) - 2
    if freedom < 1:
        return Gain(value, None)
    squares = sum((a - fmean(own)) ** 2 for a in own) + sum((a - fmean(fresh)) ** 2 for a in fresh)
    deviation = max(math.sqrt(squares / freedom), 1 / images)
    return Gain(value, float(t.ppf(_CONFIDENCE, freedom)) * deviation * math.sqrt(1 / len(own) + 1 / len(fresh)))
