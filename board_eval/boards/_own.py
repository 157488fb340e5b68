"""A board of the user's own: what it says of itself is looked at when it is found, and what it measures when it did."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.boards._board import Board, Labels
from edgesearch.board_eval.boards._measurement import Measurement
from edgesearch.board_eval.boards._simulated import SimulatedBoard
from edgesearch.board_eval.boards._ssh import SshBoard
from edgesearch.board_eval.graph import Array, Graph
from edgesearch.board_eval.remote import BoardProbe, BoardRun
from edgesearch.board_eval.targets import Target
from edgesearch.errors import BoardError, PluginError
from edgesearch.plugins import calling

if TYPE_CHECKING:
    from edgesearch.board_eval.boards._physical import PhysicalBoard

__all__ = ["check_board", "measure_on", "probe_of", "run_on"]


def check_board(found: object, name: str) -> Board:
    """What is behind the import path `name` as a Board; raises PluginError for what is none, or says what no Board can."""
    with calling(f"board {name!r}"):  # its properties are the user's own code
        if not isinstance(found, Board):
            kind = type(found).__name__
            raise PluginError(f"board {name!r} is a {kind}; expected a Board, or a function without arguments that makes one")
        if not isinstance(found, SimulatedBoard | SshBoard):
            _check_words(found, name)
    return found


def _check_words(board: Board, name: str) -> None:
    target: object = board.target
    if isinstance(target, type) or not isinstance(target, Target):
        raise PluginError(
            f"target of board {name!r} is {target!r}; expected a Target, such as a Dpu(...) or what find_target('B4096') "
            "of edgesearch.board_eval gives"
        )
    for attribute, kind in (("name", str), ("resource", str), ("is_pure", bool)):
        value: object = getattr(board, attribute)
        if not isinstance(value, kind):
            raise PluginError(f"{attribute} of board {name!r} is {value!r}; expected a {kind.__name__}")
    content: object = board.content
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"it is a {type(content).__name__}")
        json.dumps(dict(content))
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"content of board {name!r} is nothing that JSON can hold ({error}); expected a dict of texts, numbers, lists and "
            "dicts, which decide its results"
        ) from error


def measure_on(
    board: Board, network: Graph | str | Path, images: Array | None = None, labels: Labels | None = None
) -> Measurement:
    """What `board.measure` says.

    Raises BoardError for what a board of the user's own raises, and for what it gives that is no Measurement or no speed.
    """
    if isinstance(board, SimulatedBoard | SshBoard):
        return board.measure(network, images, labels)
    where = f"board {_path_of(board)!r}"
    with calling(where, BoardError):
        found: object = board.measure(network, images, labels)
    if not isinstance(found, Measurement):
        raise BoardError(f"{where} measured a {type(found).__name__}; expected an edgesearch.board_eval.Measurement")
    for name in ("latency_s", "throughput_fps"):
        value: object = getattr(found, name)
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise BoardError(f"{where} measured {name} = {value!r}; expected a number above 0")
    for name, most in (("latency_error", 1.0), ("fps_error", 1.0), ("power_w", math.inf)):
        value = getattr(found, name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value < most):
            expected = "a share below 1" if most == 1 else "a number from 0"
            raise BoardError(f"{where} measured {name} = {value!r}; expected {expected}, or None")
    return found


def run_on(board: PhysicalBoard, xmodel: str | Path, images: npt.NDArray[np.int8], labels: Labels | None = None) -> BoardRun:
    """What `board.run` says; raises BoardError for what a board of the user's own raises, or gives that is no BoardRun."""
    where = f"board {_path_of(board)!r}"
    with calling(where, BoardError) if not isinstance(board, SshBoard) else nullcontext():
        run: object = board.run(xmodel, images, labels)
    if not isinstance(run, BoardRun):
        raise BoardError(f"{where} gave a {type(run).__name__} of its run; expected an edgesearch.board_eval.BoardRun")
    return run


def probe_of(board: PhysicalBoard) -> BoardProbe:
    """What `board.probe` says; raises BoardError for what a board of the user's own raises, or gives that is no BoardProbe."""
    where = f"board {_path_of(board)!r}"
    with calling(where, BoardError) if not isinstance(board, SshBoard) else nullcontext():
        probe: object = board.probe()
    if not isinstance(probe, BoardProbe):
        raise BoardError(f"{where} says of itself a {type(probe).__name__}; expected an edgesearch.board_eval.BoardProbe")
    return probe


def _path_of(board: Board) -> str:
    """The import path of the board's class."""
    return f"{type(board).__module__}:{type(board).__qualname__}"
