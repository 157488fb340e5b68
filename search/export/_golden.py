"""Golden images: a few pictures, the integers that they become for the DPU, and the integers that must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import Graph, execute
from edgesearch.board_eval.graph import quantize_images
from edgesearch.objectives import DataSet, golden_images

PICTURES, INPUT, OUTPUT = "golden_pictures.npy", "golden_input.npy", "golden_output.npy"


def golden_arrays(graph: Graph, data: DataSet) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Pictures uint8 (N, height, width, C) of the calibration images, input int8 (N, H, W, C), output int8 (N, classes)."""
    assert graph.input.fix is not None
    assert graph.output.fix is not None
    integers = quantize_images(golden_images(graph, data), graph.input.fix)
    output = np.ldexp(execute(graph, integers), graph.output.fix).astype(np.int8)
    return data.calibration.images[: len(integers)], integers, output


def write_golden(graph: Graph, data: DataSet, folder: Path) -> None:
    """Write `golden_pictures.npy`, `golden_input.npy` and `golden_output.npy`."""
    for name, array in zip((PICTURES, INPUT, OUTPUT), golden_arrays(graph, data), strict=True):
        np.save(folder / name, array)


def read_golden_input(folder: Path) -> npt.NDArray[np.int8] | None:
    """The golden images (N, H, W, C) of an export's folder; None where it has none."""
    try:
        images = np.load(folder / INPUT, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.dtype == np.int8 and images.ndim == 4 and len(images) else None
