"""A small compiled network, images for it, and the program in Python on a board that stands on the stand-in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgesearch.board_eval import DEFAULT_TARGET, compile_xmodel, execute, write_xmodel
from edgesearch.board_eval.runner import PYTHON_NAME, runner_source

from ._boards import SLOWER, STANDIN, Case, Done, Run, execute_program, small


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("board")
    graph = small()
    compiled = compile_xmodel(graph, DEFAULT_TARGET)
    compiled.write(folder / "small.xmodel")
    (folder / "sources").mkdir()
    source = folder / "sources" / f"{compiled.sha256}.xmodel"
    write_xmodel(graph, source)
    images = np.random.default_rng(1).integers(-128, 128, (30, 8, 8, 3)).astype(np.int8)
    assert graph.output.fix is not None
    expected = np.ldexp(execute(graph, images), graph.output.fix).astype(np.int8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(30, dtype=np.int64) % 5)
    (folder / PYTHON_NAME).write_bytes(runner_source())
    return Case(folder, folder / "small.xmodel", source, folder / "images.npy", folder / "labels.npy", expected)


@pytest.fixture
def run_python(case: Case, tmp_path: Path) -> Run:
    """Run the program in Python on the stand-in; knobs of the stand-in and variables of the environment as keywords."""

    def run(*words: object, environment: dict[str, str] | None = None, **knobs: object) -> Done:
        variables = {
            **os.environ,
            "PYTHONPATH": str(STANDIN),
            "PATH": f"{STANDIN / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "EDGESEARCH_BOARD_ROOT": str(tmp_path / "root"),
            "VART_STANDIN_SLOWER": SLOWER,
            **{f"VART_STANDIN_{name.upper()}": str(value) for name, value in knobs.items()},
            **(environment or {}),
        }
        return execute_program([sys.executable, str(case.folder / PYTHON_NAME)], words, variables, tmp_path)

    return run
