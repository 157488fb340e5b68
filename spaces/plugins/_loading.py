"""Importing a user's own code, and telling one state of it from another.

The fingerprint of its files (see `Source`) is part of what decides a result. A process that imported the code before it was
edited imports it again, so that no result of old code is taken for one of the new. How old a module is that somebody else
imported is not known: one of the user's own is imported again where a file of it was written since this program began.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

from edgesearch.errors import PluginError, in_one_line
from edgesearch.plugins._beside import beside, lock
from edgesearch.plugins._source import is_installed, locate, root_of
from edgesearch.plugins._torchvision import with_torchvision

#: Fingerprint of the files when the module of that name was imported here.
_imported: dict[str, str] = {}
_BEGAN = time.time()


def is_import_path(name: str) -> bool:
    """Whether `name` is written as an import path, `package.module:Thing`."""
    return ":" in name


def load(path: str, *, folder: Path | None = None, noun: str = "class", expected_sha256: str = "") -> object:
    """The thing behind an import path. `folder` is looked at before Python's own places.

    Raises PluginError when there is no such module or name, when importing it fails for whatever reason, when the files
    are not those that `expected_sha256` (of `source_fingerprint`) was made from, and when it comes from a file but has no
    fingerprint, so that no later state of it could be told from this one.
    """
    module_name, _, attribute = path.partition(":")
    with lock:
        fingerprint = source_fingerprint(path, folder=folder)
        if expected_sha256 and fingerprint != expected_sha256:
            raise PluginError(
                f"the code of {noun} {path!r} changed while the study ran; what was begun with it before cannot go on, and new "
                "trials take it as it is now"
            )
        module = _import(module_name, folder, fingerprint, f"{noun} {path!r}")
        if not fingerprint and (file := getattr(module, "__file__", None)):
            raise PluginError(
                f"{noun} {path!r} comes from {file}, and no Python source of {module_name!r} is found that would tell a later "
                "state of it from this one; expected a module in a file of its own, in a folder where Python looks"
            )
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise PluginError(f"{noun} {path!r}: module {module_name!r} has no {attribute!r}; check the name") from error


def source_fingerprint(path: str, *, folder: Path | None = None) -> str:
    """SHA-256 over the files behind an import path: the module's and all of its project's that it imports.

    "" where Python finds no source; importing it says what is wrong. Imports that a file makes by computed names are not seen.
    """
    with beside(folder):
        source = locate(path.partition(":")[0])
    return "" if source is None else source.fingerprint()


def _import(name: str, folder: Path | None, fingerprint: str, what: str) -> ModuleType:
    if name in sys.modules and _is_found(name, folder) and _is_as_imported(name, folder, fingerprint):
        return sys.modules[name]
    with beside(folder):
        for package in _packages_of(name):
            if package in sys.modules and not _is_found(package, folder):
                _forget(package)
        _forget(name)
        importlib.invalidate_caches()
        try:
            module = with_torchvision(partial(importlib.import_module, name))
        except (Exception, SystemExit) as error:  # whatever the user's own module raises when it is imported
            where = "" if folder is None else f" from {str(folder)!r} or"
            advice = f"expected package.module:Thing that Python finds{where} from here"
            if isinstance(error, SystemExit):
                advice = "its code ends the program when it is imported: take that out"
            elif not isinstance(error, ImportError):
                advice = "its code fails when it is imported: mend that"
            raise PluginError(f"{what} cannot be imported ({in_one_line(error)}); {advice}") from error
    _imported[name] = fingerprint
    return module


def _is_found(name: str, folder: Path | None) -> bool:
    """Whether the module that is loaded is the one that would be found now, not one of the same name elsewhere."""
    with beside(folder):
        source = locate(name)
    loaded = getattr(sys.modules[name], "__file__", None)
    if loaded is None:
        return source is None or not hasattr(sys.modules[name], "__path__")
    return source is None or Path(loaded).resolve() == source.file.resolve()


def _is_as_imported(name: str, folder: Path | None, fingerprint: str) -> bool:
    """Whether the module that is loaded was made from the files as they are now."""
    if name in _imported:
        return _imported[name] == fingerprint
    with beside(folder):
        source = locate(name)
    if source is None or not _is_of_project(source.file.resolve(), source.root):
        return True
    return all(file.stat().st_mtime < _BEGAN for file in source.files())


def _packages_of(name: str) -> list[str]:
    """The packages around a module, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _forget(name: str) -> None:
    """Drop the module, and those of its project that it brought in, so that they are read anew."""
    module = sys.modules.get(name)
    source = getattr(module, "__file__", None)
    if source is None:
        if hasattr(module, "__path__"):  # a namespace package has no file; what is inside it goes by its name
            for other in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
                del sys.modules[other]
        return
    file = Path(source)
    root = root_of(file.parent, name if file.name == "__init__.py" else name.rpartition(".")[0])
    inside, real = os.path.join(root, ""), _RealPaths()
    for other, module in list(sys.modules.items()):
        file_of_other = getattr(module, "__file__", None)
        # Python gives whole paths; a relative one, as torch.ops has, is no place where the module was found.
        path = real(file_of_other) if file_of_other and os.path.isabs(file_of_other) else ""
        is_inside = path.startswith(inside)  # few of thousands are
        if other == name or (is_inside and other != "__main__" and _is_of_project(Path(path), root)):
            del sys.modules[other]


class _RealPaths:
    """Paths without links; each folder is followed once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)


def _is_of_project(file: Path, root: Path) -> bool:
    """Whether a file may be a user's own: below the project's folder, neither installed nor this program's."""
    own = file.is_relative_to(Path(__file__).resolve().parents[2])
    return file.is_relative_to(root) and not own and not is_installed(file)
