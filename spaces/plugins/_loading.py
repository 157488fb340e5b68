"""Importing a user's own code, and telling one state of it from another.

The code behind an import path is a set of files: the module's own, and every file of the same project that it imports,
directly or not. Their fingerprint is part of what decides a result. A process that imported the code before it was edited
imports it again, so that no result of old code is taken for one of the new.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from edgesearch.errors import PluginError

#: Fingerprint of the files when the module of that name was imported here.
_imported: dict[str, str] = {}
_lock = threading.RLock()
_INSTALLED = ("site-packages", "dist-packages")


def is_import_path(name: str) -> bool:
    """Whether `name` is written as an import path, `package.module:Thing`."""
    return ":" in name


def load(path: str, *, folder: Path | None = None, noun: str = "class", expected_sha256: str = "") -> object:
    """The thing behind an import path. `folder` is looked at before Python's own places.

    Raises PluginError when there is no such module or name, when importing it fails for whatever reason, and when the files
    are not those that `expected_sha256` (of `source_fingerprint`) was made from.
    """
    module_name, _, attribute = path.partition(":")
    with _lock:
        fingerprint = source_fingerprint(path, folder=folder)
        if expected_sha256 and fingerprint != expected_sha256:
            raise PluginError(
                f"the code of {noun} {path!r} changed while the study ran; what was begun with it before cannot go on, and new "
                "trials take it as it is now"
            )
        module = _import(module_name, folder, fingerprint, f"{noun} {path!r}")
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise PluginError(f"{noun} {path!r}: module {module_name!r} has no {attribute!r}; check the name") from error


def source_fingerprint(path: str, *, folder: Path | None = None) -> str:
    """SHA-256 over the files behind an import path: the module's and all of its project's that it imports.

    "" where Python finds no source; importing it says what is wrong. Imports that a file makes by computed names are not seen.
    """
    module_name = path.partition(":")[0]
    with _beside(folder):
        root_and_file = _locate(module_name)
    if root_and_file is None:
        return ""
    digest = hashlib.sha256()
    root, _ = root_and_file
    for file in sorted(_project_files(module_name, root)):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _import(name: str, folder: Path | None, fingerprint: str, what: str) -> ModuleType:
    if name in sys.modules and _imported.get(name, fingerprint) == fingerprint and _is_found(name, folder):
        return sys.modules[name]
    with _beside(folder):
        _forget(name)
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the user's own module raises when it is imported
            where = "" if folder is None else f" from {str(folder)!r} or"
            raise PluginError(
                f"{what} cannot be imported ({type(error).__name__}: {error}); "
                f"expected package.module:Thing that Python finds{where} from here"
            ) from error
    _imported[name] = fingerprint
    return module


def _is_found(name: str, folder: Path | None) -> bool:
    """Whether the module that is loaded is the one that would be found now, not one of the same name elsewhere."""
    with _beside(folder):
        located = _locate(name)
    loaded = getattr(sys.modules[name], "__file__", None)
    return located is None or loaded is None or Path(loaded).resolve() == located[1]


def _forget(name: str) -> None:
    """Drop the module, and those of its project that it brought in, so that they are read anew."""
    source = getattr(sys.modules.get(name), "__file__", None)
    if source is None:
        return
    file = Path(source).resolve()
    root = file.parents[len(name.split(".")) - (file.name != "__init__.py")]
    for other, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if other == name or (path and other != "__main__" and _is_of_project(Path(path).resolve(), root)):
            del sys.modules[other]


def _is_of_project(file: Path, root: Path) -> bool:
    """Whether a file may be a user's own: below the project's folder, neither installed nor this program's."""
    own = file.is_relative_to(Path(__file__).resolve().parents[2])
    return file.is_relative_to(root) and not own and not _is_installed(file)


@contextmanager
def _beside(folder: Path | None) -> Iterator[None]:
    """Look into `folder` first, then where Python looks, then into the working directory; sys.path stays what it was."""
    with _lock:
        before, writes_none = sys.path, sys.dont_write_bytecode
        first = [] if folder is None else [str(folder.resolve())]
        # Another list: a thread that walks through the old one while it changes would miss an entry, and not find torch, say.
        sys.path = list(dict.fromkeys([*first, *before, os.getcwd()]))
        # Bytecode is told apart by seconds and sizes; an edit can be faster than that.
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.path = before
            sys.dont_write_bytecode = writes_none


def _locate(name: str) -> tuple[Path, Path] | None:
    """(folder that holds the top-level package or module, the module's file), found without importing anything."""
    top, *rest = name.split(".")
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:  # a package, with or without __init__.py
        package = Path(next(iter(spec.submodule_search_locations))).resolve()
        file = _module_file(package.parent, name)
        return None if file is None else (package.parent, file)
    if rest or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin).resolve()
    return file.parent, file


def _module_file(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((f for f in (place.with_name(f"{place.name}.py"), place / "__init__.py") if f.is_file()), None)


def _is_installed(path: Path) -> bool:
    return any(part in _INSTALLED for part in path.parts) or path.is_relative_to(Path(sys.base_prefix) / "lib")


def _project_files(name: str, root: Path) -> set[Path]:
    """The module's file and all that it reaches by import statements inside `root`; of an installed package, inside it."""
    only = name.partition(".")[0] if _is_installed(root) else ""
    found: set[Path] = set()
    waiting = [name]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or (only and module.partition(".")[0] != only):
            continue
        seen.add(module)
        parents = module.rpartition(".")[0]
        if parents:
            waiting.append(parents)
        file = _module_file(root, module)
        if file is None or file.resolve() in found:
            continue
        found.add(file.resolve())
        waiting += _imports(file, module)
    return found


def _imports(file: Path, module: str) -> list[str]:
    """Modules that a file's import statements may mean. A file that does not parse imports nothing."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - (node.level - 1)]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [n for n in names if n]
