"""Which files are the code behind a module's name, found without importing any of them.

They are the module's own file, and every file of the same project, or of a folder in PYTHONPATH, that it imports, directly or
not. The project is the folder that holds the top-level package or module. Where that is, is asked of all of Python's finders:
an editable installation puts one of its own beside the one that walks through sys.path.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Source:
    """The code of the module `name`: its `file`, the folder `place` of the package `package`, and the project's `root`.

    A package need not lie in a folder of its name. A module without a package has `package` "".
    """

    name: str
    file: Path
    package: str
    place: Path
    root: Path

    def fingerprint(self) -> str:
        """SHA-256 over the files and their names inside the project; where that lies does not count."""
        digest = hashlib.sha256()
        for label, file in sorted((label, file) for file, label in self.files().items()):
            digest.update(label.as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def files(self) -> dict[Path, Path]:
        """The files that the module reaches by import statements inside the project, of an installed package inside it; each
        with its name there.
        """
        only = self.name.partition(".")[0] if is_installed(self.root) else ""
        found: dict[Path, Path] = {}
        waiting = [self.name]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module in seen or (only and module.partition(".")[0] != only):
                continue
            seen.add(module)
            parents = module.rpartition(".")[0]
            if parents:
                waiting.append(parents)
            file = self._file_of(module)
            if file is None or file.resolve() in found:
                continue
            found[file.resolve()] = self._label(module, file)
            waiting += _imports(file, module)
        return found

    def _file_of(self, module: str) -> Path | None:
        if module == self.name:
            return self.file
        if self.package and _is_within(module, self.package):
            return _module_file(self.place, module[len(self.package) + 1 :])
        return _module_file(self.root, module) or _on_python_path(module)

    def _label(self, module: str, file: Path) -> Path:
        """A file by its path in the project; by its module's name where it lies elsewhere, behind a link."""
        real = file.resolve()
        if real.is_relative_to(self.root):
            return real.relative_to(self.root)
        inside = Path(*module.split("."))
        return inside / file.name if file.name == "__init__.py" else inside.with_suffix(".py")


def locate(name: str) -> Source | None:
    """The source of a module as Python would find it now; None where it finds none."""
    parts = name.split(".")
    path: Sequence[str] | None = None
    for depth in range(1, len(parts) + 1):
        prefix, rest = ".".join(parts[:depth]), ".".join(parts[depth:])
        spec = _spec(prefix, path)
        path = [] if spec is None else spec.submodule_search_locations
        if path is None:
            assert spec is not None
            return None if rest else _of_module(name, spec)
        # Any portion of a namespace package may hold the module; and a finder may know a package inside one by its whole name.
        for place in map(Path, path):
            if file := _module_file(place, rest):
                return Source(name, file, prefix, place, root_of(place, prefix))
    return None


def is_installed(path: Path) -> bool:
    """Whether a file is one that was installed, and not one that its user writes."""
    return any(part in _INSTALLED for part in path.parts) or path.is_relative_to(Path(sys.base_prefix) / "lib")


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """What the import statement would find, of which importlib.util.find_spec imports the packages above."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec: ModuleSpec | None = None if find is None else find(name, path)
        except KeyError:  # a namespace package asks for the one around it, which is not imported
            continue
        if spec is not None:
            return spec
    return None


def _of_module(name: str, spec: ModuleSpec) -> Source | None:
    file = Path(spec.origin or "")
    if file.suffix != ".py" or not file.is_file():
        return None
    package = name.rpartition(".")[0]
    return Source(name, file, package, file.parent, root_of(file.parent, package))


def root_of(place: Path, package: str) -> Path:
    """The folder above the folders that are named after the package, in which its neighbours are looked for."""
    root = place.absolute()
    for part in reversed(package.split(".") if package else []):
        if root.name != part:
            break
        root = root.parent
    return root.resolve()


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _on_python_path(module: str) -> Path | None:
    """A module's file in a folder that PYTHONPATH names, in which one of the user's own may lie beside the project.

    What code puts on sys.path when it is imported is not known before, and does not count.
    """
    folders = [Path(folder).resolve() for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    found = (_module_file(folder, module) for folder in folders if not is_installed(folder))
    return next((file for file in found if file is not None), None)


def _module_file(folder: Path, name: str) -> Path | None:
    """The file of the module `name` below a folder; of the folder's own package where `name` is empty."""
    place = folder.joinpath(*name.split(".")) if name else folder
    files = [place / "__init__.py"] if not name else [place.with_name(f"{place.name}.py"), place / "__init__.py"]
    return next((file for file in files if file.is_file()), None)


def _imports(file: Path, module: str) -> tuple[str, ...]:
    """Modules that a file's import statements may mean. A file that does not parse imports nothing."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _imported_by(file.read_bytes(), package)


@lru_cache(maxsize=4096)  # a study asks some hundred times, and a package may have as many files
def _imported_by(content: bytes, package: str) -> tuple[str, ...]:
    """Of a file with this content in `package`."""
    return tuple(dict.fromkeys(_names_in(content, package)))


def _names_in(content: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - (node.level - 1)]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (name for name in (base, *(f"{base}.{alias.name}" for alias in node.names)) if name)
