"""A Python that has the stand-in for Vitis AI's packages, as an interpreter of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesearch.board_eval.vitis import VitisSettings

STANDIN = Path(__file__).parent / "vitis" / "standin"


@pytest.fixture(scope="session")
def vitis(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., VitisSettings]:
    """Settings whose Python has the stand-in: vitis(), or vitis("fault") for one that fails in that way from now on."""
    folder = tmp_path_factory.mktemp("python")
    fault, python = folder / "fault", folder / "python"  # one Python for all: whether it has the packages is asked once
    python.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{STANDIN}" STANDIN_FAULT="$(cat "{fault}")"\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)

    def settings(way: str = "", **more: float) -> VitisSettings:
        fault.write_text(way)
        return VitisSettings(python=str(python), engine="none", **more)

    return settings
