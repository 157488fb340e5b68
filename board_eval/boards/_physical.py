"""Boards that run compiled files, and pools of them: what only one measurement at a time can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.boards._board import Board, Labels
from edgesearch.board_eval.boards._registry import find_board
from edgesearch.board_eval.boards._ssh import SshBoard
from edgesearch.board_eval.remote import BoardProbe, BoardRun, Boards, BoardSettings, load_boards
from edgesearch.board_eval.targets import Target
from edgesearch.errors import BoardError
from edgesearch.plugins import is_import_path, source_fingerprint

__all__ = ["BoardPool", "BoardReference", "PhysicalBoard", "find_pool", "is_physical"]

#: Steps of a job that may each take a board's `timeout_s` at most, and seconds for what is around them.
_STEPS, _AROUND_S = 4, 120.0
#: Seconds that each figure of a look at a board is measured.
_BRIEF_S = 0.1


@runtime_checkable
class PhysicalBoard(Board, Protocol):
    """A board that runs files which were compiled for its DPU."""

    def run(self, xmodel: str | Path, images: npt.NDArray[np.int8], labels: Labels | None = None) -> BoardRun:
        """Run a compiled xmodel on images (N, H, W, C), quantized: what was measured, and the logits of all images.

        Raises BoardError for a file or images that the board refuses, BoardLost when the board is at fault, BoardUnfit where a
        person must mend it.
        """
        ...

    def probe(self) -> BoardProbe:
        """What the board says of itself, without a network; raises BoardLost when it does not answer."""
        ...


@dataclass(frozen=True)
class BoardReference:
    """How another process finds a board: by its name in a boards file, or by its import path, which is then its name.

    limit_s: a measurement that takes longer hangs. power_cycle: the command that switches the board off and on again.
    source_sha256: of the code behind an import path, which must still be that where the board is opened.
    """

    name: str
    file: str = ""
    limit_s: float = 900.0
    power_cycle: tuple[str, ...] = ()
    source_sha256: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BoardReference:
        """The reference whose fields JSON kept."""
        return cls(**{**content, "power_cycle": tuple(content.get("power_cycle", ()))})

    def open(self, folder: Path | None = None, *, brief: bool = False) -> PhysicalBoard:
        """The board; code is looked for in `folder` first. `brief`: it need not measure well.

        Raises BoardError or PluginError when there is none, PluginError where its code is not that of `source_sha256`.
        """
        if self.file:
            settings = load_boards(self.file).board(self.name)
            return SshBoard(settings.model_copy(update={"seconds": _BRIEF_S}) if brief else settings)
        board = find_board(self.name, folder=folder, expected_sha256=self.source_sha256)
        if not isinstance(board, PhysicalBoard):
            raise BoardError(
                f"board {self.name!r} runs no compiled files (it has no `run` and `probe`), so that nothing can be measured on "
                "it; name a board of the boards file"
            )
        return board


@dataclass(frozen=True)
class BoardPool:
    """Boards of one kind that share the measurements of a study.

    `profile`: the simulated board that foretells theirs, by its name or path; "" where only the study can say.
    threads: that feed them; 0 where that is left to the runner.
    own: what boards of the user's own say of themselves, and the SHA-256 of their code, by import path.
    """

    name: str
    members: tuple[BoardReference, ...]
    target: Target
    runner: str
    profile: str = ""
    threads: int = 0
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def content(self) -> Mapping[str, Any]:
        """What a measurement is of, as JSON can hold it: not which member made it."""
        target = f"0x{self.target.fingerprint:x}" if self.target.fingerprint else self.target.name
        # What is added to it later is left out at its default, so that stored measurements keep their keys.
        added = {"threads": self.threads, "own": dict(self.own)}
        return {"name": self.name, "target": target, "runner": self.runner, **{k: v for k, v in added.items() if v}}


def is_physical(name: str) -> bool:
    """Whether the boards file has a board or a pool of this name."""
    boards = load_boards()
    return name in boards.boards or name in boards.pools


def find_pool(names: Sequence[str], *, folder: Path | None = None) -> BoardPool:
    """The boards of these names: of boards and pools of the boards file, and import paths, looked for in `folder` first.

    Raises BoardError for a name that leads to no board, for one that is named twice, and for boards that are not of one kind.
    """
    file = load_boards()
    found = [member for name in names for member in _members(name, file, folder)]
    references = tuple(reference for reference, _, _ in found)
    twice = [r.name for i, r in enumerate(references) if r.name in {other.name for other in references[:i]}]
    if twice or not references:
        raise BoardError(f"board {twice[0]!r} is named twice" if twice else "no board is named; name one with --board")
    _, first, profile = found[0]
    kind = _kind(first)
    for reference, board, _ in found[1:]:
        if _kind(board) != kind:
            raise BoardError(
                f"boards {references[0].name!r} and {reference.name!r} cannot share a study's measurements: their DPUs, "
                f"clocks, runners and threads are {_words(kind)} and {_words(_kind(board))}; name boards of one kind"
            )
    own = {
        reference.name: {"content": dict(board.content), "source_sha256": reference.source_sha256}
        for reference, board, _ in found
        if not reference.file
    }
    return BoardPool("+".join(sorted(names)), references, first.target, kind.runner, profile, kind.threads, own)


def _members(name: str, file: Boards, folder: Path | None) -> list[tuple[BoardReference, PhysicalBoard, str]]:
    if is_import_path(name):
        reference = BoardReference(name, source_sha256=source_fingerprint(name, folder=folder))
        return [(reference, reference.open(folder), "")]
    chosen = file.pool(name) if name in file.pools else (file.board(name),)
    return [(_reference(settings, file), SshBoard(settings), settings.target) for settings in chosen]


def _reference(settings: BoardSettings, file: Boards) -> BoardReference:
    limit = _STEPS * settings.timeout_s + _AROUND_S
    return BoardReference(settings.name, str(file.path.absolute()), limit, settings.power_cycle)


class _Kind(NamedTuple):
    """What decides how fast a network is. Of a board of the user's own the cores and their clock are not known."""

    target: Target
    runner: str
    threads: int
    cores: int | None = None
    clock_mhz: float | None = None


def _kind(board: PhysicalBoard) -> _Kind:
    kind = _Kind(board.target, str(board.content.get("runner", "")), board.content.get("threads", 0))
    if isinstance(board, SshBoard):
        return kind._replace(cores=board.profile.cores, clock_mhz=board.profile.clock_mhz)
    return kind


def _words(kind: _Kind) -> str:
    speed = "" if kind.cores is None else f"{kind.cores} cores, {kind.clock_mhz:g} MHz, "
    threads = f"threads = {kind.threads}" if kind.threads else "its own threads"
    return f"{kind.target.name} ({speed}{kind.runner or 'its own'} runner, {threads})"
