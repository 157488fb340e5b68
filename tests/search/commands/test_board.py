"""`edgesearch board ...` on a real sshd."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _sshd import LoopbackBoard, loopback_board
from click.testing import CliRunner, Result

from edgesearch.board_eval.remote import load_boards
from edgesearch.errors import BoardError
from edgesearch.search.commands._cli import cli, run


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackBoard]:
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(tmp_path / "boards.toml"))
    with loopback_board(tmp_path) as board:
        yield board


def board(*words: object) -> Result:
    return CliRunner().invoke(cli, ["board", *map(str, words)], standalone_mode=False)


def added(lab: LoopbackBoard, *more: object) -> Result:
    root = lab.root
    words = ["--host", "127.0.0.1", "--port", lab.port, "--key", root / "user_key", "--known-hosts", root / "fresh" / "hosts"]
    return board("add", "shelf", *words, "--folder", lab.folder, "--python", sys.executable, "--runner", "python", *more)


def test_a_board_is_added_once_its_key_was_seen(lab: LoopbackBoard) -> None:
    refused = added(lab)
    assert isinstance(refused.exception, BoardError)
    assert "not known, and nothing was written; add --accept-host-key" in str(refused.exception)
    assert "shows the key ssh-ed25519 SHA256:" in refused.output
    assert not (lab.root / "boards.toml").exists()
    assert not (lab.root / "fresh").exists()
    done = added(lab, "--accept-host-key", "--power-cycle", "curl -s 'http://pdu/cycle 1'", "--timeout-s", 90)
    assert done.return_value == 0
    assert load_boards().board("shelf").power_cycle == ("curl", "-s", "http://pdu/cycle 1")
    assert (lab.root / "fresh" / "hosts").read_text().startswith(f"[127.0.0.1]:{lab.port} ssh-ed25519 ")
    again = added(lab)
    assert "has a board 'shelf' already" in str(again.exception)
    checked = board("test")
    assert checked.return_value == 0
    assert "fingerprint: 0x101000056010407, that of its target 'zcu104'" in checked.output
    assert "DPU cores: 2 at 300 MHz" in checked.output
    assert "VART: 3.5.0" in checked.output
    assert "power sensor: not available" in checked.output


def test_a_key_that_is_known_already_is_not_asked_for(lab: LoopbackBoard) -> None:
    lab.signal(signal.SIGSTOP)
    try:
        done = added(lab, "--known-hosts", lab.root / "known_hosts")
    finally:
        lab.signal(signal.SIGCONT)
    assert done.return_value == 0
    assert "known from" in done.output


def test_a_machine_that_does_not_answer_is_not_added(lab: LoopbackBoard, capsys: pytest.CaptureFixture[str]) -> None:
    lab.stop()
    words = ["--host", "127.0.0.1", "--port", str(lab.port), "--key", str(lab.root / "user_key"), "--accept-host-key"]
    known = ["--known-hosts", str(lab.root / "none")]
    assert run(["board", "add", "shelf", *words, *known]) == 2
    assert "nothing answers as an SSH server" in capsys.readouterr().err
    assert not (lab.root / "boards.toml").exists()


@pytest.mark.parametrize("option", ["--key", "--known-hosts", "--target"])
def test_what_can_be_no_path_or_host_is_one_sentence(
    option: str, lab: LoopbackBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["board", "add", "a", "--host", "a", "--key", "k", option, "~nosuchuser/x.json"]) == 2
    assert f"{option}: '~nosuchuser/x.json' is no path" in capsys.readouterr().err
    assert run(["board", "add", "a", "--host", "192.168..20", "--key", str(lab.root / "user_key")]) == 2
    assert "between dots" in capsys.readouterr().err


def test_boards_are_listed_with_what_is_wrong_with_them(lab: LoopbackBoard) -> None:
    assert "names no board" in board("list").output
    path = lab.boards_file("shelf")
    path.write_text(path.read_text() + '[board.b]\nhost = "b"\nkey = "nowhere"\n[pool.all]\nboards = ["b"]\n')
    table = board("list").output
    assert "shelf" in table
    assert "board 'b', key: " in table
    told = json.loads(board("list", "--format", "json").output)
    assert told["pools"] == {"all": ["b"]}
    assert [(one["name"], one["pools"], one["problem"] is None) for one in told["boards"]] == [
        ("shelf", [], True),
        ("b", ["all"], False),
    ]


@pytest.mark.parametrize(
    ("knobs", "keys", "expected"),
    [
        ({"fingerprint": "0x101000056010406"}, {}, "FAILED   fingerprint: 0x101000056010406, its target 'zcu104' has 0x10"),
        ({"cores": 1}, {}, "note     DPU cores: 1 at 300 MHz; predictions are for 2 x B4096"),
        ({"mhz": 150}, {}, "note     DPU cores: 2 at 150 MHz; predictions are for 2 x B4096 at 300 MHz"),
        ({}, {"port": 1}, "FAILED   reachable: "),
        ({}, {"python": "/usr/bin/false"}, "FAILED   runner: board 'shelf' cannot start the runner"),
    ],
)
def test_each_fault_is_a_line_and_exit_code_2(
    lab: LoopbackBoard, knobs: dict[str, object], keys: dict[str, object], expected: str
) -> None:
    lab.knobs(**knobs)
    lab.boards_file("shelf", **keys)
    checked = board("test", "shelf")
    assert expected in checked.output
    assert checked.return_value == (2 if "FAILED" in expected else 0)
    assert lab.left_behind() == []


def test_a_board_that_nobody_named_and_one_whose_key_is_open_are_told(lab: LoopbackBoard) -> None:
    lab.boards_file("shelf")
    (lab.root / "user_key").chmod(0o644)
    checked = board("test", "shelf", "other")
    assert checked.return_value == 2
    assert "run chmod 600" in checked.output
    assert "unknown board 'other'" in checked.output


def test_release_says_what_it_removed(lab: LoopbackBoard) -> None:
    lab.boards_file("shelf")
    user = lab.settings().user
    stale = lab.folder / f"edgesearch-job.{user}.0123456789abcdef"
    stale.mkdir()
    (lab.folder / "mine").mkdir()
    done = board("release", "shelf")
    assert done.return_value == 0
    assert f"removed {stale}" in done.output
    assert "lock: free" in done.output
    assert (lab.folder / "mine").is_dir()
    assert "nothing of a dead driver was on shelf" in board("release", "shelf").output
