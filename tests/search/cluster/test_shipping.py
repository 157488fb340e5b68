from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgesearch.errors import StudyError
from edgesearch.search.cluster import _shipping
from edgesearch.search.cluster._shipping import folder_with, names_code, packed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "study"
    (made / "nets").mkdir(parents=True)
    (made / "own.py").write_text("A = 1\n")
    (made / "nets" / "small.py").write_text("B = 2\n")
    (made / "study.toml").write_text("")
    for left_out in (".git/x.py", "__pycache__/y.py", "env/pyvenv.cfg", "env/lib/z.py"):
        (made / left_out).parent.mkdir(parents=True, exist_ok=True)
        (made / left_out).write_text("")
    return made


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    _shipping._unpacked.cache_clear()


def test_a_node_that_lacks_the_folder_gets_its_modules(folder: Path, tmp_path: Path) -> None:
    code = packed(folder)
    folder.rename(tmp_path / "away")
    there = Path(folder_with(code, str(folder)))
    assert there != folder
    assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*.py")) == ["nets/small.py", "own.py"]
    assert (there / "own.py").read_text() == "A = 1\n"
    assert there.parent.stat().st_mode & 0o077 == 0
    _shipping._unpacked.cache_clear()
    assert folder_with(code, str(folder)) == str(there)


def test_a_folder_that_is_there_is_used_only_with_the_same_code(folder: Path) -> None:
    code = packed(folder)
    os.utime(folder / "own.py", (1, 1))  # when it was written says nothing
    assert folder_with(code, str(folder)) == str(folder)
    _shipping._unpacked.cache_clear()
    (folder / "own.py").write_text("A = 3\n")
    assert folder_with(code, str(folder)) != str(folder)


def test_a_folder_that_is_too_large_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shipping, "MOST_BYTES", 10)
    with pytest.raises(StudyError, match="larger than 0 MiB; put the study file"):
        packed(folder)


def test_only_jobs_that_name_code_need_it() -> None:
    stage = {"kind": "student", "parameters": {"student": {"architecture": "cnn_tiny"}, "list": ["2026-01-01 10:20:30", "a:"]}}
    assert not names_code(stage, {"name": "digits"}, None, "s3://bucket/folder", "/home/user")
    assert names_code(stage, {"name": "own_data:Source"})
    assert names_code({"inputs": {"network": {"parameters": {"student": {"architecture": "nets.small:Net"}}}}})
    assert names_code("own_stores:Store+s3://bucket")
