from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgesearch.errors import StudyError
from edgesearch.search.study._errors import shown_url
from edgesearch.search.study._home import Home
from edgesearch.search.study._read_only import holds_studies, open_read_only
from edgesearch.search.study._storage import open_storage


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


@pytest.mark.parametrize("name", ["my%20project", "100%", "what?now", "a#b&c=d", "grün e\u0301", "{x}", "a:b@c"])
def test_the_database_lies_in_its_home_whatever_the_home_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "my project").mkdir()  # as a URL reads the first
    home = Home(tmp_path / name)
    home.prepare()
    open_storage(home.database)
    file = tmp_path / name / "studies.db"
    assert file.is_file()
    assert holds_studies(home.database)
    assert open_read_only(home.database).get_all_studies() == []
    assert shown_url(home.database) == f"sqlite:///{file}"
    assert sorted(path.name for path in tmp_path.rglob("studies.db")) == ["studies.db"]


def test_a_home_whose_path_is_not_utf8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"--home is '.*/caf\\udce9', a path that is not UTF-8"):
        Home(tmp_path / "caf\udce9")
    (tmp_path / "caf\udce9").mkdir()
    monkeypatch.chdir(tmp_path / "caf\udce9")
    with pytest.raises(StudyError, match="not UTF-8"):
        Home(Path("runs"))
