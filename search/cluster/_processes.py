"""Processes of other programs, Ray's among them, any of which may end between two looks at it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psutil

__all__ = ["descendants", "is_frozen", "is_of_package", "is_running", "kill", "kill_family"]


def is_running(process: psutil.Process) -> bool:
    """Whether it still computes, or could."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_frozen(process: psutil.Process) -> bool:
    """Whether it was stopped by a signal."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def is_of_package(process: psutil.Process, package: ModuleType) -> bool:
    """Whether it runs a program of a Python package's folder."""
    (folder,) = package.__path__
    try:
        return any(Path(word).is_relative_to(folder) for word in process.cmdline())
    except psutil.Error:
        return False


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """What it has started, and what that has."""
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> None:
    """End it, if it has not ended."""
    with suppress(psutil.NoSuchProcess):
        process.kill()


def kill_family(process: psutil.Process) -> None:
    """End it with all that it has started."""
    for one in (*descendants(process), process):
        kill(one)
