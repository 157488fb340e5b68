"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Golden files of AMD's tools, measurements, CIFAR-10 and MNIST: beside the checkout, or where this variable says.
_REFERENCE_DATA = Path(os.environ.get("EDGESEARCH_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data; the test is skipped where there is none."""
    if not _REFERENCE_DATA.is_dir():
        pytest.skip(f"no reference data at {_REFERENCE_DATA} (set EDGESEARCH_REFERENCE_DATA)")
    return _REFERENCE_DATA
