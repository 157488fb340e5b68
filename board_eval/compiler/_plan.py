"""What a layer looks like once everything has a place: operands, buffers, column tiles, blocks of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from edgesearch.board_eval.compiler._rows import Rows
from edgesearch.board_eval.graph import Activation, Add, Conv, Depthwise, Graph, Linear, Node, Pool
from edgesearch.board_eval.isa import WINDOW_ROUNDS
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Layer, Window

__all__ = ["External", "LayerPlan", "Operand", "Plan", "Tile", "augmented", "slides", "steady"]


#: What the five bits of a LOAD's masks hold.
_MASKED_BYTES = 31


@dataclass(frozen=True, slots=True)
class External:
    """A feature map in external memory: byte addresses and pitches of its pixels, which lie row by row."""

    register: int
    address: int
    shape: tuple[int, int, int]
    pixel_pitch: int
    row_pitch: int

    def byte(self, row: int, column: int, channel: int = 0) -> int:
        """Address of one value."""
        return self.address + row * self.row_pitch + column * self.pixel_pitch + channel

    @property
    def contiguous(self) -> bool:
        """Whether its bytes follow one another."""
        return self.pixel_pitch == self.shape[2] and self.row_pitch == self.shape[1] * self.shape[2]


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns done at a time: of the output, of what the main operation makes, and of what it reads."""

    out: range
    mid: range
    read: range


@dataclass(frozen=True, slots=True)
class Operand:
    """A feature map that a layer reads or writes: all of it on chip, or in external memory with a ring of rows on chip.

    `rows` of a ring are those of the widest tile and the largest block of channels.
    """

    name: str
    rows: Rows
    external: External | None

    def of(self, columns: range, pixel: int) -> Rows:
        """The rows for one tile and one block; on chip they are what they are."""
        if self.external is None:
            return self.rows
        return dataclasses.replace(self.rows, columns=len(columns), first_column=columns.start, pixel=pixel)


@dataclass(frozen=True)
class LayerPlan:
    """A layer with its nodes and places. Blocks are ranges of words of the output's pixels."""

    layer: Layer
    main: Node
    post: Node | None
    source: Operand
    skip: Operand | None
    middle: Rows | None
    output: Operand
    tiles: tuple[Tile, ...]
    blocks: tuple[range, ...]
    augmented: bool


@dataclass(frozen=True)
class Plan:
    """A network with a place for everything."""

    graph: Graph
    layers: tuple[LayerPlan, ...]
    #: A concat's parts: part -> the feature map that it is written into.
    written_into: Mapping[str, str]
    #: Feature maps in external memory: those of layers, and concats.
    external: Mapping[str, External]
    #: Where feature maps on chip lie, for those that are not in external memory.
    on_chip: Mapping[str, Rows]
    workspace_bytes: int
    input_bytes: int
    output_bytes: int
    #: Feature maps that are in external memory whatever room there is: parts of concats, flattened images, the result.
    never_on_chip: frozenset[str]


def slides(node: Node | None) -> bool:
    """Whether the node's windows overlap rows: depthwise convolutions and pooling, done by the ALU."""
    return isinstance(node, Depthwise | Pool) or (isinstance(node, Activation) and node.activation == "leaky_relu")


def steady(window: Window, out_shape: tuple[int, int, int], target: Target) -> Window:
    """The window with a stride of no more than it needs: that of a single row or column counts for nothing.

    A single window that is taller than four rounds of the banks gets its rows dealt several to a bank.
    """
    vertical, horizontal = window.stride
    if out_shape[0] == 1:
        vertical = 1
        while not _reached(window, vertical, target.pixel_parallel):
            vertical += 1
    if out_shape[1] == 1:
        horizontal = 1
    return dataclasses.replace(window, stride=(vertical, horizontal))


def _reached(window: Window, stride: int, banks: int) -> bool:
    """Whether the topmost window lies within the rounds of banks that an instruction knows, `stride` rows to a bank."""
    step, offset = divmod(-window.padding[2], stride)
    return step % banks + (offset + window.kernel[0] - 1) // stride < WINDOW_ROUNDS * banks


def augmented(layer: Layer, image: str, target: Target) -> bool:
    """Whether the columns of the kernel are folded into the input channels while the image is loaded.

    The LOADs mask what lies in the padding: up to 31 bytes on either side, and not on both sides of one pixel.
    """
    window, channels = layer.window, layer.in_shape[2]
    if layer.kind != "conv" or layer.source != image or not 1 < window.kernel[1] <= target.augmented_inputs // channels:
        return False
    rest = -window.kernel[1] * channels % target.input_parallel
    if max(window.padding[0] * channels, window.padding[1] * channels + rest) > _MASKED_BYTES:
        return False
    begins_outside = range(-window.padding[0], 0, window.stride[1])[: layer.mid_shape[1]]
    if any(start + window.kernel[1] > layer.in_shape[1] for start in begins_outside):
        return False
    return not any(window.padding[:2]) or (window.stride[1] <= window.kernel[1] and layer.out_shape[1] > 1)


def is_convolution(node: Node) -> bool:
    """Whether the convolution engine does it."""
    return isinstance(node, Conv | Linear)


def is_elementwise(node: Node) -> bool:
    """Whether the elementwise engine does it."""
    return isinstance(node, Add) or (isinstance(node, Activation) and node.activation != "leaky_relu")
