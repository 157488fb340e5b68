"""`edgesearch doctor` on machines with and without Vitis AI."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgesearch.search.commands import _doctor_vitis
from edgesearch.search.commands._checks import Check, run_checks
from edgesearch.search.commands._cli import cli


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EDGESEARCH_BOARDS", str(tmp_path / "boards.toml"))
    _doctor_vitis._packages.cache_clear()
    return folder


def put(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return folder / name


def doctor(*arguments: object) -> dict[str, tuple[str, str]]:
    """Check -> its mark, its words."""
    result = CliRunner().invoke(cli, ["doctor", *map(str, arguments)], standalone_mode=False)
    assert result.exception is None
    found = [line.split(": ", 1) for line in result.output.splitlines()]
    return {head[11:]: (head[:11].strip(), words) for head, words in found}


def test_without_vitis_ai_every_line_says_what_to_do_and_none_is_red(path: Path, tmp_path: Path) -> None:
    lines = doctor("--home", tmp_path / "home")
    assert {mark for mark, _ in lines.values()} == {"ok", "absent"}
    assert lines["python"][0] == lines["torch"][0] == "ok"
    mark, words = lines["vai_c_xir"]
    assert mark == "absent"
    assert "docker pull xilinx/vitis-ai-pytorch-cpu:latest" in words
    assert "not needed unless a study says compiler = " in words
    assert "[vitis] python is not set" in lines["pytorch_nndct"][1]
    assert "see above" in lines["vai_optimizer"][1]
    assert "docker pull" in lines["container"][1]


def test_every_line_is_there_as_json(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json", "--home", str(tmp_path)], standalone_mode=False)
    found = {one["check"]: one for one in json.loads(result.output)}
    assert result.return_value == 0
    assert (found["torch"]["result"], found["torch"]["needed"]) == ("ok", True)
    assert (found["boards"]["result"], found["boards"]["needed"]) == ("absent", False)
    assert "`edgesearch board add` adds one" in found["boards"]["text"]


def test_tools_that_are_there_are_named_with_their_versions(path: Path, tmp_path: Path) -> None:
    put(path, "vai_c_xir", "exit 1")
    put(
        path,
        "podman",
        'case "$1" in --version) echo podman version 4;; image) echo sha256:0123456789abcdef;; *) exit 1;; esac',
    )
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "pytorch_nndct.py").write_text("__version__ = '3.5.1'\n")
    python = put(tmp_path / "env", "python", f'PYTHONPATH={modules} exec {sys.executable} "$@"')
    study = tmp_path / "s.toml"
    study.write_text(
        f'name = "s"\nboard = "kv260"\n[vitis]\npython = "{python.relative_to(tmp_path)}"\n'
        '[[candidates]]\nstudent = { architecture = "cnn_tiny" }\n'
    )
    lines = doctor("--home", tmp_path / "home", "--study", study)
    assert lines["vai_c_xir"] == ("ok", f"{path / 'vai_c_xir'} ({lines['vai_c_xir'][1].split(' (')[1]}")
    assert lines["container"] == ("ok", "xilinx/vitis-ai-pytorch-cpu:latest in podman (0123456789ab)")
    assert lines["pytorch_nndct"][0] == "ok"
    assert lines["pytorch_nndct"][1].startswith("3.5.1, in Python 3.")
    assert str(python) in lines["pytorch_nndct"][1]
    assert lines["vai_optimizer"][0] == "absent"
    assert "get_pruning_runner" in lines["vai_optimizer"][1]
    assert lines["board"][1].startswith("kv260")


def test_a_studys_own_board_and_store_are_looked_at(path: Path, tmp_path: Path) -> None:
    (tmp_path / "my_board.py").write_text(
        "from edgesearch.board_eval import find_board\n\n\ndef make():\n    return find_board('kv260')\n"
    )
    study = tmp_path / "s.toml"
    study.write_text(
        'name = "s"\nboard = "my_board:make"\nstore = "kept"\n[[candidates]]\nstudent = { architecture = "cnn_tiny" }\n'
    )
    lines = doctor("--home", tmp_path / "home", "--study", study)
    assert lines["board"] == ("ok", lines["board"][1])
    assert lines["board"][1].startswith("kv260")
    assert lines["store"] == ("ok", str(tmp_path / "kept"))
    shutil.rmtree(tmp_path / "kept")
    (tmp_path / "kept").write_text("a file")
    mark, words = doctor("--home", tmp_path / "home", "--study", study)["store"]
    assert mark == "FAILED"
    assert str(tmp_path / "kept") in words


def test_a_database_of_another_program_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "notes.db")) as notes:
        notes.execute("CREATE TABLE notes (text)")
        notes.commit()
    before = (tmp_path / "notes.db").read_bytes()
    lines = doctor("--home", tmp_path / "home", "--storage", f"sqlite:///{tmp_path}/notes.db")
    assert lines["database"] == ("ok", "sqlite (pysqlite), studies: none yet")
    assert (tmp_path / "notes.db").read_bytes() == before
    assert lines["database"] == doctor("--home", tmp_path / "home")["database"]


def test_only_a_check_that_is_needed_fails_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> str:
        raise OSError("no disk; buy one")

    fine = Check("fine", lambda: "all right")
    assert run_checks([fine, Check("extra", fail, needed=False)])
    assert not run_checks([Check("disk", fail), fine])
    assert capsys.readouterr().out.splitlines() == [
        "  ok       fine: all right",
        "  absent   extra: no disk; buy one",
        "  FAILED   disk: no disk; buy one",
        "  ok       fine: all right",
    ]


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_store_is_the_one_that_studies_would_be_given(
    by_variable: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "elsewhere"
    if by_variable:
        monkeypatch.setenv("EDGESEARCH_STORE", str(given))
    lines = doctor("--home", tmp_path / "home", *([] if by_variable else ["--store", given]))
    assert lines["store"] == ("ok", str(given))
    assert not (tmp_path / "home" / "store").exists()
