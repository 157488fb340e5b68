"""The digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesearch.objectives.data._source import RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["read_digits"]


def read_digits(settings: DataSettings, folder: Path | None) -> RawData:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8, 17 grey levels; they come with the library."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return RawData(tuple("0123456789"), Split(images, digits.target.astype(np.int64)))
