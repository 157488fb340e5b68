"""Programs of Vitis AI that are installed on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgesearch.board_eval.vitis._process import Command, Finished, host_environment

__all__ = ["Native"]

#: Exit codes of a program that the system cannot load.
_NEVER_STARTED = (126, 127)

#: Packages of Vitis AI's conda channel whose versions decide what the compiler makes.
_PACKAGES = ("target_factory", "unilog", "vaic", "xcompiler", "xir")


@dataclass(frozen=True)
class Native:
    """A program of this machine. `variables` are given to it beside the few that every program gets."""

    program: Path
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def description(self) -> str:
        """In words."""
        return str(self.program)

    @cached_property
    def identity(self) -> str:
        """What decides what it makes: versions of the packages around it, else the program's own checksum."""
        program = self.program.resolve()
        found = sorted(
            path.stem for name in _PACKAGES for path in (program.parent.parent / "conda-meta").glob(f"{name}-[0-9]*.json")
        )
        if found:
            return " ".join(found)
        try:
            return f"sha256 {hashlib.sha256(program.read_bytes()).hexdigest()}"
        except OSError:  # may be run, not read
            return f"file {program}"

    def inside(self, path: Path, folder: Path) -> str:
        """Where a file of the job's folder lies for the program."""
        return str(path)

    def never_started(self, finished: Finished) -> bool:
        """Whether it ended before it ran: a library or the interpreter that it needs is not there."""
        return finished.code in _NEVER_STARTED

    def command(self, arguments: Sequence[str], folder: Path | None = None) -> Command:
        """The command that runs the program on a job's folder; what lies beside it comes first on its PATH."""
        path = os.pathsep.join((str(self.program.parent), os.environ.get("PATH", os.defpath)))
        variables = {**dict(self.variables), "PATH": path}
        return Command((str(self.program), *arguments), folder or Path("/"), host_environment(**variables))
