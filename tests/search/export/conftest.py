"""An exported trial, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.search import Study


@pytest.fixture(scope="session")
def exported(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.record(0).export(tmp_path_factory.mktemp("deploy"))
