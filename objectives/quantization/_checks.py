"""What cannot be quantized, said before any work is done."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgesearch.board_eval.graph import Conv, Depthwise, Graph, Linear, Node, check_finite
from edgesearch.errors import QuantizationError

#: Values beyond it are no network's; their squares would leave float32.
LARGEST = 1e15
#: Bits a fix tensor can have here; 8 is what the DPU stores.
MIN_BITS, MAX_BITS = 2, 8


def check_graph(graph: Graph) -> None:
    """Raise QuantizationError unless it is a float Graph whose layers all have finite weights, and a bias where they say so."""
    given: object = graph  # callers whose types nobody checked give other things
    if not isinstance(given, Graph):
        raise QuantizationError(
            f"the network is of type {type(given).__name__}, expected the Graph that `lower` makes of a torch network"
        )
    if graph.quantized:
        raise QuantizationError(
            f"the network {graph.name!r} is quantized already; give the float Graph that `lower` made of the torch network"
        )
    for node in graph:
        if not isinstance(node, Conv | Depthwise | Linear):
            continue
        if node.weight is None or (node.has_bias and node.bias is None):
            raise QuantizationError(f"layer {node.name!r} has no weights, only shapes; load weights into the network first")
        check_finite(node.name, "weight", node.weight)
        if node.bias is not None:
            check_finite(node.name, "bias", node.bias)
            if node.bias.shape != (node.shape[-1],):
                raise QuantizationError(
                    f"layer {node.name!r}: bias has shape {node.bias.shape}, expected ({node.shape[-1]},), one per channel"
                )


#: Torch's generators take no more.
_SEEDS = 2**63


def check_bits(bits: object) -> None:
    """Raise QuantizationError unless integers of `bits` bits fit an int8."""
    if not isinstance(bits, int | np.integer) or not MIN_BITS <= bits <= MAX_BITS:
        raise QuantizationError(f"{bits!r} bits were asked for; a fix tensor has {MIN_BITS} to {MAX_BITS} (8 run on the DPU)")


def check_seed(seed: object) -> None:
    """Raise QuantizationError for what no random numbers are drawn from."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < _SEEDS:
        raise QuantizationError(f"the seed is {seed!r}, expected a whole number from 0 to {_SEEDS - 1}")


def check_calibration(graph: Graph, images: npt.NDArray[np.generic], expected: int | None = None) -> None:
    """Raise QuantizationError unless `images` can calibrate: float32 (N, *input), finite, enough, not constant."""
    shape = graph.input.shape
    if not isinstance(images, np.ndarray):
        raise QuantizationError(
            f"calibration images are of type {type(images).__name__}, expected a numpy array of float32, (N, "
            f"{', '.join(map(str, shape))}); of a torch tensor (N, C, H, W) that is images.permute(0, 2, 3, 1).numpy()"
        )
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape or len(images) == 0:
        raise QuantizationError(
            f"calibration images have shape {images.shape}, the network's input {graph.input.name!r} takes "
            f"(N, {', '.join(map(str, shape))}) with N >= 1"
        )
    if images.dtype != np.float32:
        raise QuantizationError(f"calibration images are {images.dtype}, expected float32, already normalised")
    if expected is not None and len(images) < expected:
        raise QuantizationError(f"{expected} calibration images were asked for, {len(images)} are there; ask for fewer")
    bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if bad.any():
        raise QuantizationError(f"calibration image {int(np.argmax(bad))} has NaN or infinite values; give real pixel values")
    if float(images.min()) == float(images.max()):
        raise QuantizationError(
            f"every calibration pixel is {float(images.flat[0]):g}; constant images say nothing about the network's range, "
            "give real images"
        )


def check_value(node: Node, value: Tensor) -> None:
    """Raise QuantizationError naming the node when its value on the calibration images is not finite, or absurdly large."""
    sane = value.abs() <= LARGEST
    if not sane.all():
        bad = value[~sane][0].item()
        raise QuantizationError(
            f"layer {node.name!r} puts out {bad:g} on the calibration images, expected finite values up to {LARGEST:g}; "
            "its weights are too large "
            "or the images are not normalised"
        )
