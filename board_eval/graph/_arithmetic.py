"""The DPU's integers: range, the two roundings, and a node's weights on their grid. Needs numpy alone.

An integer q at fix position fp stands for q * 2**-fp. Activations round half up, weights and biases half away from zero.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph._graph import (
    Activation,
    Add,
    Conv,
    Depthwise,
    Graph,
    Linear,
    Node,
    Reshape,
    Shape,
    reads_unrounded,
)
from edgesearch.errors import QuantizationError

Integers: TypeAlias = npt.NDArray[np.int64]

#: Rounding takes 16 bytes for each value.
_IMAGES_AT_A_TIME = 64


def limits(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of `bits` bits: (-128, 127) for 8."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def half_up(value: Fraction | float) -> int:
    """The nearest integer, ties towards plus infinity: -1.5 -> -1, 2.5 -> 3. Exact."""
    return math.floor(Fraction(value) + Fraction(1, 2))


def round_activations(values: npt.ArrayLike, fix: int, bits: int = 8) -> Integers:
    """Real values to integers at `fix`, half up, saturating."""
    low, high = limits(bits)
    scaled = np.ldexp(np.asarray(values, np.float64), fix)
    rounded: Integers = np.clip(np.floor(scaled + 0.5), low, high).astype(np.int64)
    return rounded


def quantize_images(images: npt.NDArray[np.float32], fix: int, bits: int = 8) -> npt.NDArray[np.int8]:
    """Normalised images (N, ...) as the integers that enter the DPU: rounded half up, saturated, a few images at a time."""
    integers = np.empty(images.shape, np.int8)
    for start in range(0, len(images), _IMAGES_AT_A_TIME):
        part = slice(start, start + _IMAGES_AT_A_TIME)
        integers[part] = round_activations(images[part], fix, bits)
    return integers


def round_weights(values: npt.ArrayLike, fix: int | Integers, bits: int = 8) -> Integers:
    """Real weights to integers at `fix`, half away from zero, saturating. Weights already on the grid stay as they are."""
    low, high = limits(bits)
    scaled = np.ldexp(np.asarray(values, np.float64), fix)
    rounded: Integers = np.clip(np.trunc(scaled + np.copysign(0.5, scaled)), low, high).astype(np.int64)
    return rounded


def weight_integers(
    node: Conv | Depthwise | Linear, bits: int = 8, *, per_channel: bool = False
) -> tuple[Integers, Integers | None]:
    """A layer's weights and bias as integers at their fix positions; None where it has no bias.

    Weights of `bits` bits at a position for each channel are given at `weight_fix`, the finest of them, and so with more bits.
    Raises QuantizationError naming the layer when weights or fix positions are missing, values are not finite, or there is a
    position for each channel and `per_channel` does not allow it.
    """
    if node.channel_fix is not None and not per_channel:
        raise QuantizationError(
            f"layer {node.name!r} has a fix position for each output channel, and a DPU's tensor has one; it is for analysis, "
            "quantize with another algorithm"
        )
    if node.weight is None or (node.has_bias and node.bias is None):
        raise QuantizationError(f"layer {node.name!r} has no weights, only shapes; load weights into the network first")
    if node.weight_fix is None or (node.bias is not None and node.bias_fix is None):
        raise QuantizationError(f"layer {node.name!r} has weights without a fix position; quantize the network first")
    check_finite(node.name, "weight", node.weight)
    weight = _rounded(node, node.weight, node.weight_fix, bits)
    if node.bias is None or node.bias_fix is None:
        return weight, None
    check_finite(node.name, "bias", node.bias)
    return weight, round_weights(node.bias, node.bias_fix, bits)


def _rounded(node: Conv | Depthwise | Linear, weight: npt.NDArray[np.floating], finest: int, bits: int) -> Integers:
    if node.channel_fix is None:
        return round_weights(weight, finest, bits)
    outputs = weight.ndim - 1 if isinstance(node, Depthwise) else 0
    fixes = np.array(node.channel_fix, np.int64).reshape([-1 if axis == outputs else 1 for axis in range(weight.ndim)])
    return round_weights(weight, fixes, bits) << (finest - fixes)


def check_finite(layer: str, what: str, values: npt.NDArray[np.floating]) -> None:
    """Raise QuantizationError naming the layer and the first value that is NaN or infinite."""
    bad = ~np.isfinite(values)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise QuantizationError(f"layer {layer!r}: {what} is {values[at]} at index {at}, expected a finite number")


def output_limits(node: Node, fix: int, bits: int) -> tuple[int, int]:
    """Smallest and largest integer a node can put out at `fix`, its activation counted."""
    low, high = limits(bits)
    kind = node.activation if isinstance(node, Conv | Depthwise | Linear | Add | Activation) else "none"
    if kind in ("relu", "relu6"):
        low = 0
    if kind == "relu6":
        high = min(high, half_up(Fraction(6) * Fraction(2) ** fix))
    return low, high


def average_ratio(kernel: Shape, factor: float) -> Fraction:
    """What the sum of a window is multiplied with: factor / number of elements, as the fraction it stands for."""
    return Fraction(factor) / math.prod(kernel)


def rounding_positions(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Per node, the fix positions its value is rounded to: its own, or those of the concats and ReLUs that take it unrounded.

    Raises QuantizationError for a node without a fix position that anything else reads.
    """
    asked: dict[str, set[int]] = {node.name: set() for node in graph}
    found: dict[str, tuple[int, ...]] = {}
    if graph.fix_of(graph.output.name) is None:
        raise QuantizationError(f"the output {graph.output.name!r} of {graph.name!r} has no fix position; quantize it first")
    for node in reversed(graph.nodes):
        own = graph.fix_of(node.name)
        positions = asked[node.name] if own is None else {own}
        found[node.name] = tuple(sorted(positions))
        for source in node.inputs:
            if isinstance(node, Reshape) or reads_unrounded(node):
                asked[source] |= positions
            elif graph.fix_of(source) is None:
                raise QuantizationError(
                    f"node {source!r} has no fix position and is read by {node.name!r}; quantize the network first"
                )
    if graph.input.fix is None:
        raise QuantizationError(f"the input {graph.input.name!r} of {graph.name!r} has no fix position; quantize it first")
    return found
