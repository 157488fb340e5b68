"""A Python that has the stand-in for Vitis AI's packages, as an interpreter of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesearch.board_eval.vitis import VitisSettings

STANDIN = Path(__file__).parent / "vitis" / "standin"


def make_python(folder: Path, fault: str = "") -> Path:
    """An executable that is Python with the stand-in; with a `fault` it fails in that way."""
    path = folder / f"python-{fault or 'right'}"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{STANDIN}" STANDIN_FAULT="{fault}"\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def vitis(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., VitisSettings]:
    """Settings whose Python has the stand-in: vitis(), or vitis("fault")."""
    folder = tmp_path_factory.mktemp("pythons")  # one for all tests: whether it has the packages is asked once

    def settings(fault: str = "", **more: float) -> VitisSettings:
        return VitisSettings(python=str(make_python(folder, fault)), engine="none", **more)

    return settings
