"""The C++ runner, built on the "board" by its real g++ against stubs of VART, started and read through SSH."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval.remote import run_on_board

from .._cpp_stub import PLAN, build_stub
from .._sshd import loopback_board


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_cpp_runner_is_built_on_the_board_and_runs_there(tmp_path: Path) -> None:
    environment = build_stub(tmp_path)
    images = np.random.default_rng(0).integers(-128, 128, (9, 4, 5, 3)).astype(np.int8)
    flat = images.reshape(9, -1).astype(np.int64)
    expected = np.stack([(flat * ((np.arange(60) + v) % 7)).sum(axis=1) for v in range(10)], axis=1).astype(np.int8)
    with loopback_board(tmp_path, environment) as lab:
        for _ in range(2):
            done = run_on_board(lab.settings(runner="auto"), PLAN.encode(), images, 10)
            assert (done.report.runner, done.note) == ("cpp", "")
            assert np.array_equal(done.logits, expected)
        assert len([path for path in lab.cached() if path.name.startswith("built-")]) == 1
        assert lab.left_behind() == []
