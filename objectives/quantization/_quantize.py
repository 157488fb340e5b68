"""Post-training quantization: a float Graph and a few images in, a Graph of integers out."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.execution import check_device, full_float32
from edgesearch.board_eval.graph import Graph
from edgesearch.errors import PluginError, QuantizationError
from edgesearch.objectives.quantization._best import quantize_best
from edgesearch.objectives.quantization._checks import check_bits, check_calibration, check_graph, check_seed
from edgesearch.objectives.quantization._method import Method, Quantizer
from edgesearch.objectives.quantization._per_channel import quantize_per_channel
from edgesearch.objectives.quantization._positions import MAX_FIX
from edgesearch.objectives.quantization._vitis import quantize_vitis
from edgesearch.plugins import Registry, calling, is_import_path

_LOG = logging.getLogger(__name__)

#: The quantizers of this program by name; a study gives others by their import paths.
QUANTIZERS: Registry[Quantizer] = Registry("quantization method")
QUANTIZERS.add("best", quantize_best)
QUANTIZERS.add("vitis", quantize_vitis)
QUANTIZERS.add("per_channel", quantize_per_channel)


def quantize(
    graph: Graph,
    images: npt.NDArray[np.float32],
    *,
    method: Method = "best",
    bits: int = 8,
    seed: int = 0,
    expected_images: int | None = None,
    device: str = "cpu",
    folder: Path | None = None,
) -> Graph:
    """The quantized form of a lowered `graph`, calibrated on unlabelled `images`.

    `images` is float32 (N, H, W, C), normalised as in training. "vitis" does what pytorch_nndct 3.5 does by default, one image
    at a time in the order given; "best" uses the same arithmetic, looks at the network's output instead, and returns what
    "vitis" makes of the same nodes where that is closer to the float network on held-back images and means of two: by how far
    probabilities move, see `answer_distances`; and where there are fewer than three images. "per_channel" is for analysis: a
    position for the weights of each output channel. Any other `method` is the import path of a `Quantizer`, looked for in
    `folder` first. All are deterministic; `seed` chooses the images "best" looks at, and their order. `bits` other than 8 are
    for analysis. `device` is torch's name of where to compute.
    Raises QuantizationError naming the layer or image that cannot be quantized, the method that is unknown or that fails, what
    is no seed, the `device` that torch does not have, and when there are fewer than `expected_images`.
    """
    check_bits(bits)
    check_seed(seed)
    check_device(device)
    check_graph(graph)
    check_calibration(graph, images, expected_images)
    quantizer = _find(method, folder)
    own = calling(f"quantization method {method!r}", QuantizationError) if is_import_path(method) else nullcontext()
    with full_float32(), own:
        quantized = quantizer(graph, images, bits=int(bits), seed=int(seed), device=device)  # perhaps NumPy's
    if not isinstance(quantized, Graph) or not quantized.quantized:
        found = "a Graph without fix positions" if isinstance(quantized, Graph) else f"a {type(quantized).__name__}"
        raise QuantizationError(f"quantization method {method!r} returned {found}, expected a quantized Graph")
    for what, asked, got in (
        ("an input of shape", graph.input.shape, quantized.input.shape),
        ("an output of shape", graph.output.shape, quantized.output.shape),
        ("bits", int(bits), quantized.bits),
    ):
        if asked != got:
            raise QuantizationError(f"quantization method {method!r} returned a Graph with {what} {got}, expected {asked}")
    _tell_lost_layers(graph, quantized)
    return quantized


def _tell_lost_layers(graph: Graph, quantized: Graph) -> None:
    """Warn of layers that nothing is left of."""
    for node in quantized:
        given = getattr(graph.by_name.get(node.name), "weight", None)
        left = getattr(node, "weight", None)
        if given is not None and left is not None and np.any(given) and not np.any(left):
            _LOG.warning(
                "network %s: layer %s: all its weights, %.3g at most, are rounded to 0, since no grid is finer than 2**-%d; "
                "train with normalised images, or scale the weights up and what reads them down",
                graph.name,
                node.name,
                float(np.abs(given).max()),
                MAX_FIX,
            )


def _find(method: Method, folder: Path | None) -> Quantizer:
    if not isinstance(method, str):
        raise QuantizationError(f"the method is of type {type(method).__name__}, expected its name or import path")
    try:
        return QUANTIZERS.find(method, folder=folder)
    except PluginError as error:
        raise QuantizationError(str(error)) from error
