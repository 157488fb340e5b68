"""What tells how long a study's DPU takes for a network, for pruning that goes by it."""

from __future__ import annotations

from torch import nn

from edgesearch.board_eval import Board, SimulatedBoard, SshBoard, board_timing, lower
from edgesearch.board_eval.boards import measure_on
from edgesearch.errors import SpaceError
from edgesearch.objectives.pruning import Clock

__all__ = ["clock_of", "timed_by"]


def timed_by(board: Board) -> Board | None:
    """The board that gives a network's time without hardware: itself, or its profile's simulation; None where there is none."""
    if isinstance(board, SshBoard):
        return SimulatedBoard(board.profile)
    return board if board.is_pure else None


def clock_of(board: Board, input_shape: tuple[int, int, int]) -> Clock:
    """Seconds of the DPU for an image of `input_shape` (channels, height, width); of a board of the user's own, its latency.

    A simulated board's exact time is that of its compiler's code, the rough one that of the model of AMD's compiler.
    Raises SpaceError for a board that only measures, whose results are those of a moment.
    """
    timed = timed_by(board)
    if timed is None:
        raise SpaceError(
            f"pruning.target = 'fps' needs a board whose times are computed, and {board.name!r} only measures; use "
            "target = 'macs', or a simulated board"
        )

    def exact(model: nn.Module) -> float:
        graph = lower(model, input_shape, target=timed.target)
        if isinstance(timed, SimulatedBoard):
            return board_timing(graph, timed.profile, compiler=timed.compiler, allow=timed.allow, layers=False).dpu_s
        return measure_on(timed, graph).latency_s

    def rough(model: nn.Module) -> float:
        if not isinstance(timed, SimulatedBoard):
            return exact(model)
        graph = lower(model, input_shape, target=timed.target)
        return board_timing(graph, timed.profile, compiler="vai", layers=False).dpu_s

    return Clock(exact, rough)
