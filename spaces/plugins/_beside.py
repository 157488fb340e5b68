"""Looking for a user's own code beside a study, also by the import statements in it that run later.

A network may import its neighbours in its constructor or its forward pass, long after its module was imported, in whatever
thread or process it runs. sys.path is not the place to remember its folder: it is everyone's. Modules of the folder are given
an `__import__` of their own, which looks there.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from edgesearch.plugins._source import is_installed

lock = threading.RLock()


@contextmanager
def beside(folder: Path | None, here: Path | None = None) -> Iterator[None]:
    """Look into `folder` first, then where Python looks, then into `here`, the working directory; sys stays what it was."""
    with lock:
        path, finders, writes_none = sys.path, sys.meta_path, sys.dont_write_bytecode
        first = None if folder is None else folder.resolve()
        last = here or Path.cwd()
        # Other lists: a thread that walks through the old ones while they change would miss an entry, and not find torch, say.
        sys.path = list(dict.fromkeys([*([] if first is None else [str(first)]), *path, os.fspath(last)]))
        finder = _Finder(first, last)
        sys.meta_path = [finder, *finders]
        # Bytecode is told apart by seconds and sizes; an edit can be faster than that.
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            # What an imported package put beside Python's own finders stays there.
            finders += [other for other in sys.meta_path if other is not finder and other not in finders]
            sys.path, sys.meta_path, sys.dont_write_bytecode = path, finders, writes_none


class _Finder:
    """Finds what Python finds, and has the modules of a user's own executed by `_Loader`."""

    def __init__(self, folder: Path | None, here: Path) -> None:
        self._folder, self._here = folder, here

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] == __name__.partition(".")[0]:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or not self._has(Path(spec.loader.path).resolve()):
            return None
        spec.loader = _Loader(name, spec.loader.path, partial(_import, self._folder, self._here))
        return spec

    def _has(self, file: Path) -> bool:
        folders = [folder for folder in (self._folder, self._here) if folder is not None]
        return any(file.is_relative_to(folder) for folder in folders) and not is_installed(file)


class _Loader(SourceFileLoader):
    """Executes a module with an `__import__` of its own, which Python looks up among a module's builtins."""

    def __init__(self, name: str, path: str, imports: Any) -> None:
        super().__init__(name, path)
        self._imports = imports

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._imports}
        super().exec_module(module)


def _import(
    folder: Path | None,
    here: Path,
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> ModuleType:
    with beside(folder, here):
        return builtins.__import__(name, globals, locals, fromlist, level)
