"""The digits that come with scikit-learn."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgesearch.objectives.data._source import RawData, Split

if TYPE_CHECKING:
    from edgesearch.objectives.data._settings import DataSettings

__all__ = ["read_digits"]


def read_digits(settings: DataSettings, folder: Path | None) -> RawData:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8, 17 grey levels; they come with the library."""
    table = _table()  # 64 pixels and the digit
    images = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return RawData(
        tuple("0123456789"),
        Split(images, table[:, -1]),
        preparation="levels from 0 to 16 were scaled to bytes: round(level / 16 * 255)",
    )


def _table() -> NDArray[np.int64]:
    """The scans, one in each row of 65 numbers. The library takes a second and 120 MB to import, in every process: its file is
    read without it, where it lies where it always lay.
    """
    library = find_spec("sklearn")
    if library is not None and library.origin is not None:
        file = Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",", dtype=np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.concatenate([digits.data, digits.target[:, None]], axis=1).astype(np.int64)
