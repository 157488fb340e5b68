"""A user's own code: where it is found, which files it is, and that edited code is read anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesearch.errors import PluginError
from edgesearch.plugins import load, source_fingerprint


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    assert sys.path == path


def project(folder: Path, **files: str) -> Path:
    """Write modules; two underscores stand for a dot, `pkg__` for the package itself."""
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".py") if not name.endswith("__") else folder / name[:-2] / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_it_is_found_in_the_folder_and_the_path_is_left_alone(tmp_path: Path) -> None:
    project(tmp_path, own_net="class Net: size = 3")
    assert load("own_net:Net", folder=tmp_path).size == 3  # type: ignore[attr-defined]


def test_who_walks_through_the_path_meanwhile_misses_nothing(tmp_path: Path) -> None:
    project(tmp_path, curious="import sys; PATH = sys.path")
    walked, whole = sys.path, list(sys.path)
    during = load("curious:PATH", folder=tmp_path)
    assert during is not walked
    assert sys.path is walked
    assert walked == whole


def test_the_folder_comes_first_and_the_working_directory_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, python, here = (project(tmp_path / name, who=f"IT = {name!r}") for name in ("folder", "python", "here"))
    monkeypatch.chdir(here)
    assert load("who:IT") == "here"
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(python))
        assert load("who:IT") == "python"
        assert load("who:IT", folder=folder) == "folder"


def test_two_folders_with_a_module_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    first, second = project(tmp_path / "a", models="SIZE = 1"), project(tmp_path / "b", models="SIZE = 2")
    assert [load("models:SIZE", folder=f) for f in (first, second, first)] == [1, 2, 1]


def test_edited_code_is_imported_again_with_all_it_imports(tmp_path: Path) -> None:
    folder = project(tmp_path, pkg__net="from .parts import WIDTH\nfrom helpers import DEPTH\nSIZE = WIDTH * DEPTH")
    project(folder, pkg__parts="WIDTH = 2", helpers="DEPTH = 5")
    assert load("pkg.net:SIZE", folder=folder) == 10
    project(folder, helpers="DEPTH = 7")
    assert load("pkg.net:SIZE", folder=folder) == 14


@pytest.mark.parametrize("edited", ["pkg__net", "pkg__parts", "pkg__", "helpers", "deep"])
def test_the_fingerprint_follows_every_file_of_the_project(tmp_path: Path, edited: str) -> None:
    files = {
        "pkg__net": "import helpers\nfrom . import parts\nclass Net: pass",
        "pkg__parts": "def f():\n    from deep import THING\n    return THING",
        "pkg__": "",
        "helpers": "import os, torch",
        "deep": "THING = 1",
    }
    before = source_fingerprint("pkg.net:Net", folder=project(tmp_path, **files))
    assert before == source_fingerprint("pkg.net:Net", folder=tmp_path)
    project(tmp_path, **{edited: files[edited] + "\nX = 1"})
    assert source_fingerprint("pkg.net:Net", folder=tmp_path) != before
    project(tmp_path, **{edited: files[edited], "unrelated": "Y = 2"})
    assert source_fingerprint("pkg.net:Net", folder=tmp_path) == before


def test_where_the_project_lies_does_not_count(tmp_path: Path) -> None:
    places = [project(tmp_path / name, net="class Net: pass") for name in ("here", "there")]
    assert len({source_fingerprint("net:Net", folder=place) for place in places}) == 1


def test_code_that_is_not_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    project(tmp_path, net="SIZE = 1")
    expected = source_fingerprint("net:SIZE", folder=tmp_path)
    assert load("net:SIZE", folder=tmp_path, expected_sha256=expected) == 1
    project(tmp_path, net="SIZE = 2")
    with pytest.raises(PluginError, match="changed while the study ran"):
        load("net:SIZE", folder=tmp_path, expected_sha256=expected)


@pytest.mark.parametrize(
    ("content", "path", "message"),
    [
        ("class Net: pass", "net:Other", "has no 'Other'"),
        ("class Net: pass", "nowhere:Net", "cannot be imported"),
        ("class Net(:", "net:Net", "SyntaxError"),
        ("raise RuntimeError('no luck')", "net:Net", "no luck"),
        ("raise SystemExit(3)", "net:Net", "cannot be imported (SystemExit: 3)"),
        ("import not_installed_at_all", "net:Net", "not_installed_at_all"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, content: str, path: str, message: str) -> None:
    project(tmp_path, net=content)
    with pytest.raises(PluginError, match=re.escape(message)):
        load(path, folder=tmp_path, noun="student")


def test_an_installed_package_is_fingerprinted_by_itself_alone() -> None:
    assert source_fingerprint("click.core:Context") == source_fingerprint("click.core:Command") != ""


def test_what_has_no_source_has_no_fingerprint() -> None:
    assert source_fingerprint("nowhere.at_all:Net") == source_fingerprint("math:pi") == ""
