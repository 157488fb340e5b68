"""The boards that measure a study's candidates: which of the names that it is given are such, and what they must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgesearch.board_eval import BOARDS, Board, BoardPool, find_board, find_pool, is_physical, is_profile_path
from edgesearch.errors import BoardError, StudyError
from edgesearch.files import expanded, probing
from edgesearch.plugins import is_import_path
from edgesearch.search.study import StudyFile


def board_changes(board: str | Sequence[str] | None, *, score: str) -> dict[str, Any]:
    """What `--board` changes in a study: the simulated board, or the boards that measure. None, and no name: nothing.

    An import path means a board that measures where boards do. Boards of the boards file that are named though the score is a
    simulated one are simulated. Raises PluginError for a name that leads to no board, BoardError for boards that are not of one
    kind, StudyError for several simulated ones.
    """
    names = [board] if isinstance(board, str) or not isinstance(board, Sequence | None) else list(board or ())
    for name in names:
        if not isinstance(name, str):
            raise StudyError(f"`board` is {name!r}, expected a board's name, or several")
    measuring = [name for name in names if _measures(name, score)]
    simulated = [name for name in names if name not in measuring]
    for name in simulated:
        if not (is_import_path(name) or is_profile_path(name) or name in BOARDS):
            find_board(name)  # which says that it is unknown, and what is known
    if len(simulated) > 1:
        raise StudyError(f"a study has one simulated board (given: {', '.join(simulated)}); several can only measure")
    changes: dict[str, Any] = {"boards": measuring} if measuring else {}
    if simulated:
        changes["board"] = _from_here(simulated[0])
    elif measuring and score == "simulated" and (profile := find_pool(measuring).profile):
        changes["board"] = profile  # nothing measures: they are simulated
    return changes


def _from_here(name: str) -> str:
    """A board that was given, as one reads it elsewhere: the profile in the working folder by its whole path."""
    if not is_profile_path(name):
        return name
    path = expanded(name, "--board", BoardError)
    with probing("--board", BoardError):
        return str(path.absolute() if path.is_file() else path)


def _measures(name: str, score: str) -> bool:
    if is_import_path(name):
        return score != "simulated"
    return not is_profile_path(name) and name not in BOARDS and is_physical(name)


def with_boards(settings: StudyFile) -> tuple[StudyFile, BoardPool | None]:
    """The study with its simulated board and those that measure told apart, and the latter; None where none is to measure.

    Raises StudyError when the score needs boards and none is named, PluginError for a name that leads to none, BoardError when
    they cannot be used.
    """
    changes = board_changes([settings.board], score="simulated")
    names = (*changes.get("boards", ()), *settings.boards)
    if not names or (settings.score == "simulated" and not changes.get("boards")):
        if settings.score != "simulated":
            raise StudyError(
                f"score = {settings.score!r} needs boards that measure; name some with --board NAME, or as boards = [...] in "
                "the study (`edgesearch board list` shows those that there are)"
            )
        return settings, None
    pool = find_pool(names, folder=settings.folder)
    # A profile that the study names, one that was fitted to these boards perhaps, foretells them better than their own.
    is_open = settings.board in (StudyFile.model_fields["board"].default, *changes.get("boards", ()))
    update: dict[str, Any] = {"boards": names} | ({"board": pool.profile} if is_open and pool.profile else {})
    settings = settings.model_copy(update=update)
    return settings, None if settings.score == "simulated" else pool


def check_kind(pool: BoardPool, board: Board) -> None:
    """Raise BoardError unless the boards have the DPU of the simulated one."""
    theirs, ours = pool.target, board.target
    if theirs.fingerprint != ours.fingerprint or theirs.channel_parallel != ours.channel_parallel:
        raise BoardError(
            f"the boards of {pool.name!r} have the DPU {theirs.name}, and board {board.name!r}, which foretells them, has "
            f"{ours.name}; name a board profile of their DPU"
        )
