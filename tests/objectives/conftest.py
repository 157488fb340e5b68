"""A Python that has the stand-in for Vitis AI's packages, as an interpreter of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgesearch.board_eval.vitis import VitisSettings
from edgesearch.search.processes import ForkServer

from ._warm_python import write_client

STANDIN = Path(__file__).parent / "vitis" / "standin"


@pytest.fixture(scope="session")
def warm() -> Iterator[str]:
    """The name of a fork server for programs of `write_client`; it is nobody's child, since other tests count theirs."""
    with pytest.MonkeyPatch.context() as patch, closing(ForkServer(secrets.token_hex(16), shared=True)) as server:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        server.start()
        yield server.name


@pytest.fixture(scope="session")
def vitis(tmp_path_factory: pytest.TempPathFactory, warm: str) -> Callable[..., VitisSettings]:
    """Settings whose Python has the stand-in: vitis(), or vitis("fault") for one that fails in that way from now on."""
    python = tmp_path_factory.mktemp("python") / "python"  # one for all: whether it has the packages is asked once

    def settings(way: str = "", **more: float) -> VitisSettings:
        write_client(python, warm, PYTHONPATH=str(STANDIN), STANDIN_FAULT=way)
        return VitisSettings(python=str(python), engine="none", **more)

    return settings
