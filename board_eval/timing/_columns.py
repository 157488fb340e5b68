"""Columns: how the first convolution folds its kernel's into channels, and in which pieces a layer does them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing._fusion import Layer, Window

#: Bytes of one image row, with its columns spread out for the first convolution, above which the image is done in two halves.
AUGMENTED_ROW_BYTES = 2048
#: Share of a bank that three stripes between a convolution and the window fused behind it may take.
BETWEEN_SHARE = Fraction(21, 32)


@dataclass(frozen=True, slots=True)
class Tile:
    """A range of columns a layer is done in: columns of the main operation, of the output, and of the input it reads."""

    mid: int
    out: int
    read: int


def ceil_div(a: int, b: int) -> int:
    """The quotient of a and b, rounded up."""
    return -(-a // b)


def is_augmented(layer: Layer, image: str, dpu: Target) -> bool:
    """Whether the columns of the first convolution's kernel, which lie side by side, are folded into its input channels."""
    folds = layer.kind == "conv" and layer.source == image and layer.window.dilation[1] == 1
    return folds and layer.window.kernel[1] * layer.in_shape[2] <= dpu.augmented_inputs


def conv_steps(layer: Layer, image: str, dpu: Target) -> list[int]:
    """Cycles per column of one CONV, and words of weights in their bank: of each group of output channels."""
    kernel_h, kernel_w = layer.window.kernel
    groups = output_groups(layer, dpu)
    if is_augmented(layer, image, dpu):
        return [kernel_h * ceil_div(kernel_w * layer.in_shape[2], dpu.input_parallel)] * len(groups)
    return [kernel_h * kernel_w * len(read_words(layer, group, dpu)) for group in groups]


def output_groups(layer: Layer, dpu: Target) -> range:
    """The groups of output channels that a convolution makes with one CONV each."""
    return range(ceil_div(layer.mid_shape[2], dpu.output_parallel))


def read_words(layer: Layer, group: int, dpu: Target) -> range:
    """Words of a pixel that the CONVs of a group of output channels read: all, or those from the first to the last needed."""
    channels, outputs = layer.in_shape[2], layer.mid_shape[2]
    first = group * dpu.output_parallel
    last = min(first + dpu.output_parallel, outputs) - 1
    if layer.picks is not None:
        taken = layer.picks[first : last + 1]
        return range(min(taken) // dpu.input_parallel, max(taken) // dpu.input_parallel + 1)
    if layer.groups == 1:
        return range(ceil_div(channels, dpu.input_parallel))
    made, read = outputs // layer.groups, channels // layer.groups
    return range(first // made * read // dpu.input_parallel, ceil_div((last // made + 1) * read, dpu.input_parallel))


def tiles(layer: Layer, image: str, dpu: Target, *, loads: bool) -> list[Tile]:
    """Columns are done in one piece unless a buffer is too small for a row; `loads`: whether the source is loaded."""
    columns, out = layer.mid_shape[1], layer.out_shape[1]
    pieces = _pieces(layer, image, dpu, loads)
    if pieces == 1:
        return [Tile(columns, out, read_columns(layer, columns))]
    post = layer.post_window if layer.post in ("depthwise", "pool") else Window()
    found = []
    for i in range(pieces):
        first, last = out * i // pieces, out * (i + 1) // pieces
        left = max(0, first * post.stride[1] - post.padding[0])
        right = min(columns, (last - 1) * post.stride[1] - post.padding[0] + (post.kernel[1] - 1) * post.dilation[1] + 1)
        found.append(Tile(right - left, last - first, read_columns(layer, right - left)))
    return found


def read_columns(layer: Layer, columns: int) -> int:
    """Columns of the input that so many of the main operation are made of."""
    window = layer.window
    span = (window.kernel[1] - 1) * window.dilation[1] + 1
    if window.stride[1] >= span:
        return min(layer.in_shape[1], columns * window.kernel[1])
    return min(layer.in_shape[1], (columns - 1) * window.stride[1] + span)


def _pieces(layer: Layer, image: str, dpu: Target, loads: bool) -> int:
    width = layer.mid_shape[1]
    pieces = 1
    if is_augmented(layer, image, dpu):
        pieces = ceil_div(width * layer.window.kernel[1] * layer.in_shape[2], AUGMENTED_ROW_BYTES)
    elif loads:
        rows = (dpu.pixel_parallel - 1) * layer.window.stride[0] + layer.window.rows
        stored = min(rows, layer.in_shape[0])
        words = ceil_div(stored, dpu.pixel_parallel) * layer.in_shape[1] * ceil_div(layer.in_shape[2], dpu.input_parallel)
        pieces = ceil_div(words, dpu.bank_words)
    if layer.post in ("depthwise", "pool"):
        row = width * ceil_div(layer.mid_shape[2], dpu.output_parallel)
        stripes = min(3, ceil_div(layer.mid_shape[0], dpu.pixel_parallel))
        pieces = max(pieces, ceil_div(row * stripes, int(BETWEEN_SHARE * dpu.bank_words)))
    return max(1, min(pieces, layer.out_shape[1]))
