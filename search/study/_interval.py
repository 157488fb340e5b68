"""How sure an accuracy is that was counted on some images."""

from __future__ import annotations

import math

#: Standard deviations of a 95 % interval.
_Z = 1.959963984540054


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted on `count` images (E. B. Wilson 1927), within 0..1.

    Raises ValueError for a `share` outside 0..1 or a `count` below 1.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(f"`share` is {share} of `count` {count}; expected 0..1 of at least 1")
    weight = _Z**2 / count
    centre = (share + weight / 2) / (1 + weight)
    reach = _Z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def uncertainty(share: float, count: int) -> float:
    """Half the width of the 95 % interval."""
    low, high = wilson_interval(share, count)
    return (high - low) / 2


def is_distinct(first: float, second: float, count: int) -> bool:
    """Whether two shares, each counted on `count` images, differ by more than chance: zero is outside the 95 % interval.

    The interval of their difference is R. G. Newcombe's (1998, method 10), from both Wilson intervals. It takes the counts as
    independent; two networks that were shown the same images err alike, so that some differences called chance are none.
    """
    high, low = max(first, second), min(first, second)
    reach = math.hypot(high - wilson_interval(high, count)[0], wilson_interval(low, count)[1] - low)
    return high - low > reach
