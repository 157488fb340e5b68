"""Golden input and output: a few images as the integers that enter the DPU, and the integers that must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Graph, execute
from edgesearch.objectives import DataSet, golden_images

INPUT, OUTPUT = "golden_input.npy", "golden_output.npy"


def quantize_input(graph: Graph, images: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Normalised images (N, H, W, C) as the integers that enter the DPU: rounded half up, saturated."""
    assert graph.input.fix is not None
    scaled = np.floor(np.ldexp(images.astype(np.float64), graph.input.fix) + 0.5)
    return np.clip(scaled, -128, 127).astype(np.int8)


def golden_pair(graph: Graph, data: DataSet) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Input int8 (N, H, W, C) and output int8 (N, classes) of a quantized graph on calibration images."""
    integers = quantize_input(graph, golden_images(graph, data))
    assert graph.output.fix is not None
    return integers, np.ldexp(execute(graph, integers), graph.output.fix).astype(np.int8)


def write_golden(graph: Graph, data: DataSet, folder: Path) -> None:
    """Write `golden_input.npy` and `golden_output.npy`."""
    for name, array in zip((INPUT, OUTPUT), golden_pair(graph, data), strict=True):
        np.save(folder / name, array)


def read_golden_input(folder: Path) -> npt.NDArray[np.int8] | None:
    """The golden images (N, H, W, C) of an export's folder; None where it has none."""
    try:
        images = np.load(folder / INPUT, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.dtype == np.int8 and images.ndim == 4 and len(images) else None
