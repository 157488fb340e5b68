"""Jobs in Vitis AI's own Python: this one where it has the packages, a given one, or the container's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from edgesearch.board_eval.vitis._engine import Container, find_container
from edgesearch.board_eval.vitis._native import Native
from edgesearch.board_eval.vitis._process import last_lines, run_command
from edgesearch.board_eval.vitis._settings import VitisSettings
from edgesearch.errors import ToolchainError, ToolchainMissing

__all__ = ["PythonPlace", "find_python", "python_versions", "run_python_job"]

PythonPlace: TypeAlias = Native | Container

#: Seconds that a Python has to import its packages: torch from a cold disk takes long.
_IMPORT_S = 300.0
_MARK = "edgesearch-packages "
#: Imports what it is told to, for a Python of 3.6 or later; xir before pytorch_nndct, which needs it loaded first.
_PROBE = f"""
import importlib, json, platform, sys
found, missing = {{"python": platform.python_version()}}, {{}}
try:
    import xir
except Exception:
    pass
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name.partition(":")[0])
        if ":" in name:
            getattr(module, name.partition(":")[2])
        version = getattr(module, "__version__", None) or getattr(getattr(module, "version", None), "__version__", None)
        found[name] = str(version or "installed")
    except BaseException as error:
        missing[name] = "%s: %s" % (type(error).__name__, error)
sys.stdout.write("\\n{_MARK}" + json.dumps([found, missing]) + "\\n")
"""


def run_python_job(script: Path, folder: Path, settings: VitisSettings, *, needs: Sequence[str] = ("pytorch_nndct",)) -> None:
    """Run `python script folder` in a process of its own, in the Python that `find_python` finds for the packages `needs`.

    The script may read and write in `folder` only: a container sees nothing else of this machine, and its folder has another
    path, the one that the script is given. What it prints is kept in `folder`/SCRIPT.log. Raises ToolchainMissing where there
    is no such Python, where it lacks a package or its container does not start, and ToolchainError where the script fails or
    takes longer than `job_timeout_s`, with the last lines that it printed.
    """
    folder = folder.resolve()
    place = find_python(settings, needs=needs)
    _check(place, tuple(needs))
    log = folder / f"{script.stem}.log"
    program = folder / script.name
    try:
        if program != script.resolve():
            shutil.copyfile(script, program)
        log.unlink(missing_ok=True)
    except OSError as error:
        raise ToolchainMissing(f"the job's folder {folder} cannot be written: {error.strerror or error}") from error
    command = place.command([place.inside(program, folder), place.inside(folder, folder)], folder)
    try:
        finished = run_command(command, log=log, timeout_s=settings.job_timeout_s)
    except ToolchainError as error:
        raise type(error)(f"{script.name}: {error}; its whole log is {log}") from error
    if finished.code != 0:
        said = last_lines(finished.output) or "it printed nothing"
        kind = ToolchainMissing if place.never_started(finished) else ToolchainError
        raise kind(f"{script.name} failed in {place.description} ({_ending(finished.code)}): {said}; its whole log is {log}")


def find_python(settings: VitisSettings, *, needs: Sequence[str] = ("pytorch_nndct",)) -> PythonPlace:
    """The Python for jobs that import `needs`: the one that is set, this one where it has them all, else the container's.

    Raises ToolchainMissing, one sentence that says what can be done.
    """
    if settings.python:
        path = shutil.which(settings.python)
        if path is None:
            raise ToolchainMissing(f"[vitis] python = {settings.python!r} is no program that can be run; give a Python's path")
        return Native(Path(os.path.abspath(path)))
    if all(_is_here(name) for name in needs):
        # this Python finds its packages as it does here
        return Native(Path(sys.executable), (("PYTHONPATH", os.pathsep.join(path for path in sys.path if path)),))
    try:
        return find_container(settings, "python")
    except ToolchainError as error:
        raise ToolchainMissing(
            f"no Python with {', '.join(needs)} was found: this one has none, [vitis] python is not set, and {error}"
        ) from error


def python_versions(place: PythonPlace, names: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Versions of the packages that a Python can import, its own under "python"; and why it cannot import the others.

    A name may be "package:attribute" for a package that must have the attribute.

    Raises ToolchainMissing when it does not run, or dies of an import.
    """
    command = place.command(["-c", _PROBE, *names])
    try:
        finished = run_command(command, log=None, timeout_s=_IMPORT_S)
    except ToolchainError as error:
        raise ToolchainMissing(f"{place.description} cannot run Python: {error}") from error
    for line in reversed(finished.output.splitlines()):
        if finished.code == 0 and line.startswith(_MARK):
            try:
                found, missing = json.loads(line.removeprefix(_MARK))
                return dict(found), dict(missing)
            except (ValueError, TypeError):
                break
    said = last_lines(finished.output) or "it printed nothing"
    raise ToolchainMissing(f"{place.description} cannot run Python ({_ending(finished.code)}): {said}")


@lru_cache(maxsize=16)
def _check(place: PythonPlace, needs: tuple[str, ...]) -> None:
    """Raise ToolchainMissing unless the Python imports every package; asked once a process."""
    _, missing = python_versions(place, needs)
    if missing:
        raise ToolchainMissing(
            f"{place.description} is a Python without {', '.join(missing)} ({last_lines('; '.join(missing.values()), 1)}); "
            f"set [vitis] python to one that has {'it' if len(missing) == 1 else 'them'}, as Vitis AI's conda environment"
        )


def _is_here(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
