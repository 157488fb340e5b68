"""A board on loopback for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .._sshd import LoopbackBoard, loopback_board


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LoopbackBoard]:
    with loopback_board(tmp_path) as board:
        yield board
