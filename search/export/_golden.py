"""Golden input and output: a few images as the integers that enter the DPU, and the integers that must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Graph, execute
from edgesearch.board_eval.graph import quantize_images
from edgesearch.objectives import DataSet, golden_images

INPUT, OUTPUT = "golden_input.npy", "golden_output.npy"


def golden_pair(graph: Graph, data: DataSet) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Input int8 (N, H, W, C) and output int8 (N, classes) of a quantized graph on calibration images."""
    assert graph.input.fix is not None
    assert graph.output.fix is not None
    integers = quantize_images(golden_images(graph, data), graph.input.fix)
    return integers, np.ldexp(execute(graph, integers), graph.output.fix).astype(np.int8)


def write_golden(graph: Graph, data: DataSet, folder: Path) -> None:
    """Write `golden_input.npy` and `golden_output.npy`."""
    for name, array in zip((INPUT, OUTPUT), golden_pair(graph, data), strict=True):
        np.save(folder / name, array)
