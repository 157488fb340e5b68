"""Post-training quantization: a float Graph and a few images in, a Graph of integers out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Graph
from edgesearch.errors import QuantizationError
from edgesearch.objectives.quantization._best import quantize_best
from edgesearch.objectives.quantization._checks import check_bits, check_calibration, check_graph
from edgesearch.objectives.quantization._method import Method
from edgesearch.objectives.quantization._vitis import quantize_vitis


def quantize(
    graph: Graph,
    images: npt.NDArray[np.float32],
    *,
    method: Method = "best",
    bits: int = 8,
    seed: int = 0,
    expected_images: int | None = None,
) -> Graph:
    """The quantized form of a lowered `graph`, calibrated on unlabelled `images`.

    `images` is float32 (N, H, W, C), normalised as in training. "vitis" does what pytorch_nndct 3.5 does by default, one image
    at a time in the order given; "best" uses the same arithmetic and looks at the network's output instead. Both are
    deterministic; `seed` chooses the images "best" looks at, and their order. `bits` other than 8 are for analysis.
    Raises QuantizationError naming the layer or image that cannot be quantized, and when there are fewer than
    `expected_images`.
    """
    check_bits(bits)
    check_graph(graph)
    check_calibration(graph, images, expected_images)
    match method:
        case "best":
            return quantize_best(graph, images, bits=bits, seed=seed)
        case "vitis":
            return quantize_vitis(graph, images, bits=bits)
        case _:
            raise QuantizationError(f"quantization method {method!r} is unknown; choose 'vitis' or 'best'")
