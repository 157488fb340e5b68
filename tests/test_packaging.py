"""What is installed, and what each room offers."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

import edgesearch.errors

ROOT = Path(__file__).parents[1]
#: Folders that are installed as rooms; errors, files, plugins, settings, testing and threads lie inside two of them.
ROOMS = ("board_eval", "objectives", "search", "spaces", "studies")
#: Where packages that are no room's are kept.
KEPT_IN = {
    "errors": "spaces/errors",
    "files": "spaces/files",
    "plugins": "spaces/plugins",
    "settings": "spaces/settings",
    "testing": "search/testing",
    "threads": "spaces/threads",
}


def packages() -> dict[str, Path]:
    """Import name -> folder of every package there is."""
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    kept = {ROOT / folder: name for name, folder in KEPT_IN.items()}
    return {
        "edgesearch." + (kept[folder] if folder in kept else ".".join(folder.relative_to(ROOT).parts)): folder
        for folder in folders
    }


def test_every_package_folder_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"] == sorted(packages())
    expected = {f"edgesearch.{room}": room for room in ROOMS} | {f"edgesearch.{name}": path for name, path in KEPT_IN.items()}
    assert settings["package-dir"] == expected


def test_every_package_with_code_says_that_it_is_typed() -> None:
    named = {folder for folder in (*ROOMS, *KEPT_IN.values()) if any((ROOT / folder).glob("_*.py*"))}
    assert {folder for folder in named if not (ROOT / folder / "py.typed").is_file()} == {"studies"}  # study files alone


@pytest.mark.parametrize("name", sorted(packages()))
def test_every_name_a_package_offers_is_there(name: str) -> None:
    package = importlib.import_module(name)
    for offered in getattr(package, "__all__", []):
        assert getattr(package, offered) is not None
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_a_wings_own_modules_are_its_own() -> None:
    """What another wing uses is named by the wing's `__init__`; the modules behind it have names that start with _."""
    found = []
    for name, folder in packages().items():
        for path in folder.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
                private = module.startswith("edgesearch.") and module.rpartition(".")[2].startswith("_")
                if private and not f"{name}.".startswith(f"{module.rpartition('.')[0]}."):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {module}")
    assert not found


def test_there_is_one_exception_root() -> None:
    for name in edgesearch.errors.__all__:
        kind = getattr(edgesearch.errors, name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            assert issubclass(kind, edgesearch.errors.EdgesearchError)
