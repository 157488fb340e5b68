"""The user's own code on nodes that do not have it: the modules beside the study file travel with the jobs that need them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgesearch.errors import StudyError

__all__ = ["MOST_BYTES", "folder_with", "import_paths", "names_code", "packed"]

#: Bytes of Python files that a study may have beside it.
MOST_BYTES = 16 << 20
#: package.module:Thing, and what may follow it
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(\+|$)")
#: Folders that hold no modules of a study.
_LEFT_OUT = {"__pycache__", "node_modules", "site-packages"}


def names_code(*values: Any) -> bool:
    """Whether one of these JSON values has an import path in it."""
    return bool(import_paths(*values))


def import_paths(*values: Any) -> set[str]:
    """The import paths in these JSON values."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, str):
            found |= {value.partition("+")[0]} if _IMPORT_PATH.match(value) else set()
        else:
            parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
            found |= import_paths(*parts)
    return found


def packed(folder: Path) -> bytes:
    """The Python files below a folder as a zip file, the same bytes for the same files; hidden folders are left out.

    Raises StudyError where they are too large to be sent around.
    """
    buffer, total = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in _modules(folder):
            content = path.read_bytes()
            total += len(content)
            if total > MOST_BYTES:
                raise StudyError(
                    f"the Python files in {folder}, which the cluster's nodes are to have, are larger than "
                    f"{MOST_BYTES >> 20} MiB; put the study file and its own modules into a folder of their own"
                )
            file.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), content)
    return buffer.getvalue()


def folder_with(code: bytes, folder: str) -> str:
    """A folder of this machine that has exactly this code: `folder` itself, where that is so, else one with a copy."""
    here = Path(folder)
    if here.is_dir():
        try:
            if packed(here) == code:
                return folder
        except (OSError, StudyError):
            pass
    return _unpacked(code)


@lru_cache(maxsize=16)
def _unpacked(code: bytes) -> str:
    digest = hashlib.sha256(code).hexdigest()[:32]
    base = Path(tempfile.gettempdir()) / f"edgesearch-code-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise StudyError(f"{base} belongs to somebody else; remove it")
    place = base / digest
    if not place.is_dir():
        with tempfile.TemporaryDirectory(dir=base) as temporary:
            with zipfile.ZipFile(io.BytesIO(code)) as file:
                file.extractall(Path(temporary) / "code")
            try:
                os.rename(Path(temporary) / "code", place)
            except OSError:  # another worker was faster
                if not place.is_dir():
                    raise
    return str(place)


def _modules(folder: Path) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        found += [Path(base) / name for name in sorted(files) if name.endswith(".py")]
    return found
