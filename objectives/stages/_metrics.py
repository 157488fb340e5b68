"""What is known of a network without running it: speed on the board, size, work."""

from __future__ import annotations

from edgesearch.board_eval import BoardProfile, Graph, check_fits, time_graph


def describe(graph: Graph, board: BoardProfile, bits: int) -> dict[str, float]:
    """Fps (throughput, every core busy), latency_ms and latency_fps (one image at a time, host included), size, MACs.

    size_bytes counts weights and biases at `bits` bits. Raises GraphError for a network that the DPU cannot hold.
    """
    check_fits(graph, board.dpu)
    timing = time_graph(graph, board)
    return {
        "fps": timing.throughput_fps,
        "latency_ms": timing.latency_s * 1e3,
        "latency_fps": timing.latency_fps,
        "size_bytes": float(-(-graph.parameters * bits // 8)),
        "macs": float(graph.macs),
        "parameters": float(graph.parameters),
    }
