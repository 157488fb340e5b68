from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgesearch.errors import StudyError
from edgesearch.search.study._home import Home


def test_a_home_stays_where_it_is_when_the_working_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(Path("runs"))
    (tmp_path / "elsewhere").mkdir()
    os.chdir("elsewhere")
    home.prepare()
    assert home.root == Path("runs")
    assert home.database == f"sqlite:///{tmp_path / 'runs' / 'studies.db'}"
    places = (home.store, home.logs("s"), home.report("s"), home.deployments("s"))
    assert {place.relative_to(tmp_path / "runs").parts[0] for place in places} == {"store", "logs", "reports", "deployments"}
    assert (tmp_path / "runs" / "logs").is_dir()
    assert list(Path().iterdir()) == []


def test_a_home_is_below_the_users_where_a_tilde_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home(Path("~/runs")).folder == tmp_path / "runs"
    with pytest.raises(StudyError, match="~nosuchuser"):
        Home(Path("~nosuchuser/runs"))


def test_a_home_whose_database_would_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"'\?' in its path"):
        _ = Home(tmp_path / "what?now").database
