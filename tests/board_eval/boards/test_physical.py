"""Pools of boards, from a boards file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgesearch.board_eval.boards._physical import BoardReference, find_pool, is_physical
from edgesearch.board_eval.boards._ssh import SshBoard
from edgesearch.errors import BoardError, PluginError

BOARD = 'host = "192.0.2.{number}"\nkey = "key"\ntimeout_s = 10.0\n'


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").chmod(0o600)
    path = tmp_path / "boards.toml"
    tables = {
        "a": BOARD.format(number=1) + 'power_cycle = ["switch", "off and on"]\n',
        "b": BOARD.format(number=2),
        "cpp": BOARD.format(number=3) + 'runner = "cpp"\n',
        "kv": BOARD.format(number=4) + 'target = "kv260"\n',
        "big": BOARD.format(number=7) + 'target = "zcu102"\n',
        "one": BOARD.format(number=5) + "threads = 1\n",
        "eight": BOARD.format(number=6) + "threads = 8\n",
    }
    text = "".join(f"[board.{name}]\n{table}" for name, table in tables.items()) + '[pool.lab]\nboards = ["a", "b"]\n'
    path.write_text(text)
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(path))
    return path


def test_a_pool_names_its_boards_and_what_they_are(boards: Path) -> None:
    pool = find_pool(["lab"])
    assert [member.name for member in pool.members] == ["a", "b"]
    assert pool.members[0].power_cycle == ("switch", "off and on")
    assert pool.members[0].limit_s > 4 * 10.0
    assert pool.profile == "zcu104"
    assert dict(pool.content) == {"name": "lab", "target": "0x101000056010407", "runner": "auto"}


def test_boards_by_their_names_are_one_pool_in_any_order(boards: Path) -> None:
    assert find_pool(["b", "a"]).content == find_pool(["a", "b"]).content
    assert find_pool(["a", "b"]).name == "a+b"


def test_how_many_threads_feed_a_board_is_part_of_what_is_measured(boards: Path) -> None:
    assert find_pool(["one"]).content["threads"] == 1
    assert "threads" not in find_pool(["a"]).content
    text = boards.read_text()
    boards.write_text(text.replace("threads = 1", "threads = 8"))
    assert find_pool(["one"]).content["threads"] == 8


#: A module with a board of the user's own.
OWN = """
from edgesearch.board_eval import DEFAULT_TARGET

class Lab:
    name, is_pure, resource, target = "lab", False, "lab", DEFAULT_TARGET
    content = {"runner": "mine", "cooling": "fan"}
    def measure(self, network, images=None, labels=None): raise NotImplementedError
    def run(self, xmodel, images, labels=None): raise NotImplementedError
    def probe(self): raise NotImplementedError
"""


def test_a_board_of_ones_own_counts_by_what_it_says_and_by_its_code(boards: Path, tmp_path: Path) -> None:
    def content(text: str) -> dict[str, Any]:
        (tmp_path / "own_lab.py").write_text(text)
        return dict(find_pool(["own_lab:Lab"], folder=tmp_path).content)

    first = content(OWN)
    assert first["own"]["own_lab:Lab"]["content"] == {"runner": "mine", "cooling": "fan"}
    contents = [first, content(OWN.replace("fan", "none")), content(OWN + "# another way to time\n")]
    assert all(contents.count(one) == 1 for one in contents)


def test_a_board_of_ones_own_that_changed_since_is_not_opened(boards: Path, tmp_path: Path) -> None:
    (tmp_path / "own_lab.py").write_text(OWN)
    reference = BoardReference.from_json(asdict(find_pool(["own_lab:Lab"], folder=tmp_path).members[0]))
    assert reference.open(tmp_path).name == "lab"
    (tmp_path / "own_lab.py").write_text(OWN.replace("fan", "none"))
    with pytest.raises(PluginError, match="'own_lab:Lab' changed while the study ran"):
        reference.open(tmp_path)


def test_a_reference_finds_its_board_in_another_process(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = find_pool(["a"]).members[0]
    monkeypatch.delenv("EDGESEARCH_BOARDS")  # a worker may not have it
    again = BoardReference.from_json(asdict(reference))
    assert again == reference
    board = again.open()
    assert isinstance(board, SshBoard)
    assert board.name == "a"
    brief = again.open(brief=True)
    assert isinstance(brief, SshBoard)
    assert brief.settings.seconds < board.settings.seconds


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nobody"], "unknown board 'nobody'"),
        (["lab", "a"], "'a' is named twice"),
        (["a", "cpp"], r"cannot share.*auto runner.*cpp runner"),
        (["a", "big"], r"cannot share.*\(2 cores, 300 MHz, auto runner.*\(3 cores, 281 MHz, auto runner"),
        (["one", "eight"], r"cannot share.*auto runner, threads = 1.*auto runner, threads = 8"),
        ([], "no board is named"),
    ],
)
def test_what_is_no_pool_is_refused(boards: Path, names: list[str], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        find_pool(names)


def test_a_simulated_board_measures_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from edgesearch.board_eval import find_board\nboard = find_board('zcu104')\n")
    with pytest.raises(BoardError, match="runs no compiled files"):
        find_pool(["mine:board"], folder=tmp_path)


def test_names_of_the_boards_file_are_physical(boards: Path) -> None:
    assert [is_physical(name) for name in ("a", "lab", "zcu104")] == [True, True, False]


def test_ssh_is_imported_where_a_board_is_entered() -> None:
    code = "import sys\nfrom edgesearch.board_eval import find_board\nfind_board('zcu104')\nprint('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
