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
