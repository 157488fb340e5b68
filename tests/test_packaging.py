"""What is installed, and what each room offers."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

import edgesearch.errors

ROOT = Path(__file__).parents[1]
ROOMS = ("board_eval", "objectives", "objectives.quantization", "search", "spaces")
#: Room -> the rooms it may import.
MAY_IMPORT = {
    "spaces": {"spaces"},
    "board_eval": {"board_eval"},
    "objectives": {"objectives", "spaces", "board_eval"},
    "search": {"search", "objectives", "spaces", "board_eval", "studies"},
}


def test_every_package_folder_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        str(path.parent.relative_to(ROOT)) for room in (*MAY_IMPORT, "studies") for path in (ROOT / room).rglob("__init__.py")
    }
    assert folders == set(settings["package-dir"].values())
    assert set(settings["packages"]) == set(settings["package-dir"])


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_a_room_offers_is_there(room: str) -> None:
    package = importlib.import_module(f"edgesearch.{room}")
    names = getattr(package, "__all__", [])
    assert names == sorted(names, key=lambda n: (not n.isupper(), n))  # constants first, as ruff sorts them
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_imports_point_one_way() -> None:
    for room, allowed in MAY_IMPORT.items():
        for path in (ROOT / room).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]) and words[1].startswith("edgesearch."):
                    to = words[1].split(".")[1]
                    assert to == "errors" or to in allowed, f"{path}: {line}"


def test_there_is_one_exception_root() -> None:
    for name in edgesearch.errors.__all__:
        kind = getattr(edgesearch.errors, name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            assert issubclass(kind, edgesearch.errors.EdgesearchError)
