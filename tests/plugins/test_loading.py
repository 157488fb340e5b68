"""A user's own code: where it is found, which files it is, and that edited code is read anew."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgesearch.errors import PluginError
from edgesearch.plugins import _source, load, source_fingerprint


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    modules, path, finders, hooks = set(sys.modules), list(sys.path), list(sys.meta_path), list(sys.path_hooks)
    yield
    sys.meta_path[:], sys.path_hooks[:] = finders, hooks
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
        ("raise SystemExit(3)", "net:Net", "cannot be imported (SystemExit: 3); its code ends the program when it is imported"),
        ("raise ValueError(3)", "net:Net", "cannot be imported (ValueError: 3); its code fails when it is imported: mend that"),
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


def install_editable(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pip install -e` does, for this process alone: the finder that setuptools writes is put beside Python's own."""
    build = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    wheels = project / "wheels"
    wheels.mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", build, str(wheels)], cwd=project, check=True, capture_output=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(project / "site")
    monkeypatch.syspath_prepend(str(project / "site"))
    exec(next((project / "site").glob("*.pth")).read_text())


@pytest.mark.parametrize(("name", "folder"), [("flat_nets", "flat_nets"), ("renamed_nets", "src"), ("team.nets", "lib")])
def test_edits_of_what_is_installed_editable_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    settings = f"[project]\nname = 'nets'\nversion = '1'\n[tool.setuptools]\npackages = ['{name}']\n"
    (tmp_path / "pyproject.toml").write_text(f"{settings}package-dir = {{'{name}' = '{folder}'}}\n")
    project(tmp_path, **{f"{folder}__": ""})
    project(tmp_path / folder, net="from .parts import SIZE", parts="SIZE = 1")
    install_editable(tmp_path, monkeypatch)
    before = source_fingerprint(f"{name}.net:SIZE")
    assert load(f"{name}.net:SIZE", expected_sha256=before) == 1
    project(tmp_path / folder, parts="SIZE = 2")
    assert "" != source_fingerprint(f"{name}.net:SIZE") != before != ""
    assert load(f"{name}.net:SIZE") == 2


@pytest.mark.parametrize("other", ["twice", "twice__", "twice__other"], ids=["module", "package", "namespace"])
def test_a_package_takes_the_place_of_another_of_its_name(tmp_path: Path, other: str) -> None:
    project(tmp_path / "a", **{other: "SIZE = 1"})
    project(tmp_path / "b", twice__="", twice__net="SIZE = 2")
    load(f"{other.replace('__', '.').strip('.')}:SIZE", folder=tmp_path / "a")
    assert load("twice.net:SIZE", folder=tmp_path / "b") == 2


def test_links_to_code_are_followed(tmp_path: Path) -> None:
    real = project(tmp_path / "real", some__net="from .parts import SIZE", some__parts="SIZE = 1", alone="SIZE = 3")
    folder = project(tmp_path / "folder", helper="")
    (folder / "pkg").symlink_to(real / "some")
    (folder / "linked.py").symlink_to(real / "alone.py")
    before = [source_fingerprint(path, folder=folder) for path in ("pkg.net:SIZE", "linked:SIZE")]
    assert [load(path, folder=folder) for path in ("pkg.net:SIZE", "linked:SIZE")] == [1, 3]
    project(real, some__parts="SIZE = 2", alone="SIZE = 4")
    after = [source_fingerprint(path, folder=folder) for path in ("pkg.net:SIZE", "linked:SIZE")]
    assert not set(before) & set(after)


def test_any_part_of_a_namespace_package_may_hold_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path / "a", shared__other="")
    project(tmp_path / "b", shared__net="SIZE = 1")
    monkeypatch.syspath_prepend(str(tmp_path / "b"))
    before = source_fingerprint("shared.net:SIZE", folder=tmp_path / "a")
    project(tmp_path / "b", shared__net="SIZE = 2")
    assert "" != source_fingerprint("shared.net:SIZE", folder=tmp_path / "a") != before


def test_code_without_a_source_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "nets.zip", "w") as archive:
        archive.writestr("zipped_net.py", "SIZE = 1")
    with pytest.raises(PluginError, match=r"nets\.zip.*no Python source of 'zipped_net' is found"):
        load("zipped_net:SIZE", folder=tmp_path / "nets.zip")


LAZY = """
def make():
    from lazy_neighbour import build
    return build()
"""


def test_what_code_imports_when_it_runs_is_found_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = "def build():\n    import lazy_pkg.parts\n    return lazy_pkg.parts.size()"
    parts = "def size():\n    from .deep import SIZE\n    import lazy_deep\n    return SIZE + lazy_deep.SIZE"
    files = {
        "lazy_net": LAZY,
        "lazy_neighbour": neighbour,
        "lazy_pkg__": "",
        "lazy_pkg__parts": parts,
        "lazy_pkg__deep": "SIZE = 1",
    }
    project(tmp_path / "study", **files, lazy_deep="SIZE = 2", lazy_other="")
    make = load("lazy_net:make", folder=tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    path, finders = list(sys.path), list(sys.meta_path)
    assert make() == 3  # type: ignore[operator]
    assert (sys.path, sys.meta_path) == (path, finders)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lazy_other")
    project(tmp_path / "study", lazy_deep="SIZE = 5")
    assert load("lazy_net:make", folder=tmp_path / "study")() == 6  # type: ignore[operator]


def test_it_is_found_in_a_thread_and_in_the_working_directory_of_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, lazy_net=LAZY, lazy_neighbour="def build(): return 4")
    monkeypatch.chdir(tmp_path)
    make = load("lazy_net:make")
    monkeypatch.chdir("/")
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(make).result() == 4  # type: ignore[arg-type]


def test_finders_that_imported_code_adds_stay(tmp_path: Path) -> None:
    adds = "import sys\nclass Finder:\n    @staticmethod\n    def find_spec(*_): return None\nsys.meta_path.append(Finder)"
    project(tmp_path, adding=adds)
    assert load("adding:Finder", folder=tmp_path) is sys.meta_path[-1]


def test_a_module_that_was_imported_before_an_edit_is_imported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "imported_by_itself.py"
    file.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert importlib.import_module("imported_by_itself").VALUE == 1
    file.write_text("VALUE = 2\n")
    expected = source_fingerprint("imported_by_itself:VALUE")
    assert load("imported_by_itself:VALUE", expected_sha256=expected) == 2


def test_modules_without_a_file_stay_when_a_project_in_the_working_directory_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, mine="class Net: ..."))
    import torch  # torch.ops says that its file is _ops.py

    assert not os.path.isabs(str(torch.ops.__file__))
    load("mine:Net")
    before = set(sys.modules)
    project(tmp_path, mine="class Net: edited = True")
    assert vars(load("mine:Net"))["edited"]
    assert before <= set(sys.modules)


def test_a_module_that_nobody_edited_is_not_imported_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "imported_and_kept.py"
    file.write_text("class Net: ...\n")
    os.utime(file, (1e9, 1e9))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imported_and_kept")
    assert load("imported_and_kept:Net") is module.Net


def test_code_in_a_folder_of_pythonpath_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path / "study", net="from blocks import body\nclass Net: pass")
    library = project(tmp_path / "library", blocks="body = 16")
    alone = source_fingerprint("net:Net", folder=tmp_path / "study")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'nowhere'}{os.pathsep}{library}")
    before = source_fingerprint("net:Net", folder=tmp_path / "study")
    project(library, blocks="body = 32")
    assert len({alone, before, source_fingerprint("net:Net", folder=tmp_path / "study")}) == 3


def test_files_that_are_as_they_were_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path, once_net="import once_parts\nclass Net: ...", once_parts="SIZE = 1")
    first = source_fingerprint("once_net:Net", folder=folder)
    with monkeypatch.context() as patched:
        patched.setattr(_source, "_names_in", None)
        assert source_fingerprint("once_net:Net", folder=folder) == first
    project(folder, once_parts="import once_more", once_more="SIZE = 2")
    changed = source_fingerprint("once_net:Net", folder=folder)
    project(folder, once_more="SIZE = 3")
    assert len({first, changed, source_fingerprint("once_net:Net", folder=folder)}) == 3
