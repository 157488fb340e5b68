"""One registry per seam: the names that a study file may use, and import paths beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar, cast

from edgesearch.errors import PluginError, SettingsError
from edgesearch.plugins._loading import is_import_path, load

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name. `noun` is what messages call them: "sampler", "board", "data source"."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Register `thing`; raises SettingsError when the name is taken."""
        if name in self._things:
            raise SettingsError(f"`name` {name!r} is taken by another {self.noun}")
        self._things[name] = thing
        return thing

    def find(self, name: str, *, folder: Path | None = None, expected_sha256: str = "") -> T:
        """The thing called `name`, or the one behind an import path, which is looked for in `folder` first.

        Raises PluginError for an unknown name, and for a path whose code cannot be imported or is not that of
        `expected_sha256`.
        """
        if is_import_path(name):
            return cast("T", load(name, folder=folder, noun=self.noun, expected_sha256=expected_sha256))
        if name not in self._things:
            raise PluginError(self.unknown(name))
        return self._things[name]

    def unknown(self, name: str) -> str:
        """The sentence for a name that nothing is registered under."""
        known = ", ".join(sorted(self._things)) or "none"
        return f"unknown {self.noun} {name!r}; expected one of {known} or an import path such as my_pkg.module:Thing"

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))
