"""Boards by name, by the path of a profile, by their table in the boards file, or by import path."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from edgesearch.board_eval.boards._board import Board
from edgesearch.board_eval.boards._own import check_board
from edgesearch.board_eval.boards._simulated import SimulatedBoard
from edgesearch.board_eval.boards._speed import Compiler, check_compiler
from edgesearch.board_eval.boards._ssh import SshBoard
from edgesearch.board_eval.compiler import Feature
from edgesearch.board_eval.remote import load_boards
from edgesearch.board_eval.targets import is_profile_path, load_profile, profile_names
from edgesearch.errors import EdgesearchError, PluginError, in_one_line
from edgesearch.plugins import Registry, calling, is_import_path

__all__ = ["BOARDS", "find_board"]


def _simulated(profile: str | Path, folder: Path | None = None) -> Board:
    return SimulatedBoard(load_profile(profile, folder=folder))


#: What makes each board, by name: those of the shipped profiles, simulated. `BOARDS.add` registers another in this process;
#: a study, whose stages run in others, takes an import path.
BOARDS: Registry[Callable[[], Board]] = Registry("board")
for _name in profile_names():
    BOARDS.add(_name, partial(_simulated, _name))


def find_board(
    name: str,
    *,
    folder: Path | None = None,
    compiler: Compiler | None = None,
    allow: Collection[Feature] = (),
    expected_sha256: str = "",
) -> Board:
    """The board called `name`, simulated from the JSON profile at that path, of the boards file, or behind an import path.

    Files and code are looked for in `folder` first. What an import path leads to is a Board, or is called without arguments to
    make one. A simulated board has code of `compiler` (None: of the one it was made with), which may use the features in
    `allow`. Raises PluginError when there is none, it is not a Board or says of itself what no Board can, its code is not that
    of `expected_sha256` (of `source_fingerprint`), or a profile's DPU is an import path that leads to nothing; TargetError for
    a profile that is not valid; BoardError for a boards file that is not, or a board in it whose key cannot be used;
    SettingsError for another `compiler`.
    """
    if compiler is not None:
        check_compiler(compiler)
    board = _found(name, folder, expected_sha256)
    return board.with_compiler(compiler, allow) if compiler is not None and isinstance(board, SimulatedBoard) else board


def _found(name: str, folder: Path | None, expected_sha256: str) -> Board:
    if is_profile_path(name):
        beside = None if folder is None else folder / name
        return _simulated(beside if beside is not None and beside.is_file() else name, folder)
    if not is_import_path(name) and name not in BOARDS:
        boards = load_boards()
        if name in boards.boards:
            return SshBoard(boards.board(name))
        named = ", ".join((*boards.boards, *boards.pools)) or "none"
        raise PluginError(f"{BOARDS.unknown(name)}, a board of {boards.path} ({named}), or the path of a .json profile")
    found: object = BOARDS.find(name, folder=folder, expected_sha256=expected_sha256)
    with calling(f"board {name!r}"):  # to look at it asks its properties, the user's own code
        is_board = not isinstance(found, type) and isinstance(found, Board)
    return check_board(found if is_board else _made(found, name), name)


def _made(maker: object, name: str) -> object:
    if not callable(maker):
        return maker
    try:
        return maker()
    except EdgesearchError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise PluginError(
            f"board {name!r} cannot be made ({in_one_line(error)}); expected a call without arguments to make it"
        ) from error
