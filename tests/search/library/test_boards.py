"""What `--board` changes in a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesearch.board_eval import load_profile
from edgesearch.errors import EdgesearchError, StudyError
from edgesearch.search.library._boards import board_changes

LAB = """
[board.lab]
host = "lab.example"
key = "key"
target = "kv260"
"""


@pytest.fixture(autouse=True)
def boards_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boards.toml").write_text(LAB)
    (tmp_path / "key").touch(mode=0o600)
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(tmp_path / "boards.toml"))
    monkeypatch.chdir(tmp_path)


def test_a_board_that_does_not_measure_is_simulated() -> None:
    assert board_changes(["lab"], score="simulated") == {"boards": ["lab"], "board": "kv260"}
    assert board_changes(["lab"], score="board") == {"boards": ["lab"]}
    assert board_changes(["zcu102", "lab"], score="simulated") == {"boards": ["lab"], "board": "zcu102"}
    assert board_changes(["zcu102"], score="simulated") == {"board": "zcu102"}
    with pytest.raises(StudyError, match="one simulated board"):
        board_changes(["zcu102", "kv260"], score="simulated")


def test_a_profile_is_that_of_the_working_folder_whatever_lies_beside_the_study(tmp_path: Path) -> None:
    assert board_changes(["mine.json"], score="simulated") == {"board": "mine.json"}  # beside the study, perhaps
    (tmp_path / "mine.json").write_text("{}")
    assert board_changes(["mine.json"], score="simulated") == {"board": str(tmp_path / "mine.json")}


def test_a_profile_in_a_users_folder_is_found_where_no_shell_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.json").write_text(load_profile("zcu102").to_json())
    assert board_changes(["~/mine.json"], score="simulated") == {"board": str(tmp_path / "mine.json")}
    assert board_changes(["~/none.json"], score="simulated") == {"board": str(tmp_path / "none.json")}
    assert load_profile("~/mine.json") == load_profile("zcu102")
    for find in (lambda name: board_changes([name], score="simulated"), load_profile):
        with pytest.raises(EdgesearchError, match="no home folder ~nosuchuser"):
            find("~nosuchuser/mine.json")
