"""What a study reads before it runs, and what of it decides results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgesearch.board_eval import BOARDS
from edgesearch.errors import PluginError, SpaceError, StudyError
from edgesearch.objectives import Store, run_stage
from edgesearch.objectives.data import DATA_SOURCES
from edgesearch.objectives.pruning import PRUNERS
from edgesearch.objectives.quantization import QUANTIZERS
from edgesearch.plugins import Registry
from edgesearch.search import Study, StudyFile
from edgesearch.search.library import _evaluate
from edgesearch.search.library._cost import describe_cost
from edgesearch.search.library._inputs import Inputs, read_inputs
from edgesearch.search.study import Home
from edgesearch.spaces import Candidate

BOARD = """
from edgesearch.board_eval import SimulatedBoard, load_profile

class Mine(SimulatedBoard):
    def __init__(self):
        super().__init__(load_profile("zcu104"))
"""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("my_board", None)


def read(folder: Path, board: str) -> Inputs:
    tables: dict[str, Any] = {
        "name": "s",
        "board": board,
        "data": {"name": "digits", "train_images": 100, "validation_images": 50, "calibration_images": 16, "test_images": 50},
        "train": {"epochs": 1},
        "space": {"students": ["mlp"], "input_size": [8]},
    }
    return read_inputs(StudyFile.parse(tables, folder=folder), to_run=False)


def candidate(**pruning: Any) -> Candidate:
    return Candidate.model_validate({"student": {"architecture": "mlp", "input_size": 8}, "pruning": pruning})


def test_the_code_of_a_board_of_the_users_own_is_part_of_what_it_decides(tmp_path: Path) -> None:
    timed = candidate(method="one_step", ratio=0.5, target="fps")
    (tmp_path / "my_board.py").write_text(BOARD)
    before = read(tmp_path, "my_board:Mine")
    again = read(tmp_path, "my_board:Mine")
    (tmp_path / "my_board.py").write_text(BOARD + "        # another clock\n")
    after = read(tmp_path, "my_board:Mine")
    for whose in (candidate(), timed):
        assert before.plan(whose).key == again.plan(whose).key != after.plan(whose).key
        assert before.plan(whose, last="student").key == after.plan(whose, last="student").key
    assert before.plan(candidate(), last="quantized").key == after.plan(candidate(), last="quantized").key
    assert before.plan(timed, last="pruned").key != after.plan(timed, last="pruned").key
    shipped = read(tmp_path, "zcu104").plan(timed)
    assert not [stage.kind for stage in shipped.walk() if "source_sha256" in stage.parameters]


def test_a_board_whose_code_changed_measures_no_more_for_the_study_that_began_before(tmp_path: Path) -> None:
    (tmp_path / "my_board.py").write_text(BOARD)
    inputs = read(tmp_path, "my_board:Mine")
    store, data = Store(tmp_path / "store"), inputs.settings.data.model_dump(mode="json")
    *stages, measured = inputs.plan(candidate()).walk()
    for stage in stages:
        run_stage(stage, store, data_settings=data, folder=tmp_path, device="cpu")
    (tmp_path / "my_board.py").write_text(BOARD + "        # another clock\n")
    with pytest.raises(PluginError, match="the code of board 'my_board:Mine' changed while the study ran"):
        run_stage(measured, store, data_settings=data, folder=tmp_path, device="cpu")


def test_a_board_that_tells_no_speed_before_it_measures_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_board.py").write_text(f"{BOARD}    is_pure = False\n")
    inputs, home = read(tmp_path, "my_board:Mine"), Home(tmp_path / "home")
    said = describe_cost(inputs, home, 2)
    assert said.count("MMAC  FPS: measured by the board  ") == 1
    assert "expected cost" in said
    notes: list[str] = []

    def no_pool(**_: Any) -> None:
        raise StudyError("enough")

    monkeypatch.setattr(_evaluate, "make_pool", no_pool)
    with pytest.raises(StudyError, match="enough"):
        _evaluate.evaluate_candidate(inputs, home, candidate(), test=False, note=notes.append)
    assert notes == ["mlp @8 ptq int8: FPS: measured by the board"]


@pytest.mark.parametrize(
    ("registry", "changes", "message"),
    [
        (BOARDS, {"board": "mine"}, "board 'mine' is registered in this process alone.*import path, such as"),
        (DATA_SOURCES, {"data": {"name": "mine"}}, "data source 'mine' is registered in this process alone.*import path"),
        (
            PRUNERS,
            {"space": {"students": ["mlp"], "pruning": ["mine"]}},
            "'mine' is unknown; expected one of .* an import path",
        ),
        (QUANTIZERS, {"space": {"students": ["mlp"], "algorithm": ["mine"]}}, "'mine' is unknown; .* an import path such as"),
    ],
)
def test_a_name_that_stages_would_not_find_is_refused_when_a_study_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(registry, "_things", dict(registry._things))
    registry.add("mine", lambda *given, **more: pytest.fail("it was called"))
    tables = {"name": "s", "data": {"name": "digits"}, "space": {"students": ["mlp"], "input_size": [8]}}
    with pytest.raises((PluginError, SpaceError), match=message):
        Study.open(StudyFile.parse(tables | changes, folder=tmp_path), tmp_path / "home")
