"""What is known of a network without its weights: whether the DPU takes it, its speed on a board, its size, its work."""

from __future__ import annotations

from edgesearch.board_eval import Board, Graph, check_fits
from edgesearch.board_eval.boards import measure_on


def size_bytes(parameters: int, bits: int) -> float:
    """Bytes of so many weights and biases of `bits` bits each."""
    return float(-(-parameters * bits // 8))


def describe(graph: Graph, bits: int) -> dict[str, float]:
    """Size and work. size_bytes counts weights and biases at `bits` bits each."""
    return {
        "size_bytes": size_bytes(graph.parameters, bits),
        "macs": float(graph.macs),
        "parameters": float(graph.parameters),
    }


def estimate(graph: Graph, board: Board, bits: int) -> dict[str, float]:
    """Size and work, and where the board's answer needs no hardware its speed: fps, latency_ms and latency_fps.

    Raises GraphError for a network that the board's DPU cannot hold, BoardError where a board of the user's own fails.
    """
    check_fits(graph, board.target)
    speed = measure_on(board, graph).figures() if board.is_pure else {}
    return speed | describe(graph, bits)
