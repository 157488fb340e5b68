"""From a Graph to the program a DPU would execute: fusion, placement, instructions. Weights are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval.graph import Activation, Concat, Conv, Depthwise, Graph, Linear, Node, Pool
from edgesearch.board_eval.targets import Dpu
from edgesearch.board_eval.timing._allocation import Allocation, allocate, tensor_words
from edgesearch.board_eval.timing._emission import emit
from edgesearch.board_eval.timing._fusion import Layer, as_image, fuse
from edgesearch.board_eval.timing._instructions import Instruction, Kind, Tape
from edgesearch.errors import GraphError

#: Largest pooling kernel and stride per axis: UG1414 gives 1..256 for the kernels of depthwise windows, which the same engine
#: does; taken for pooling too, whose global windows exceed 16.
MAX_POOL = 256
#: A layer has at most this many groups of output channels, and dilation x input channels is at most this many groups of those
#: (Vitis AI user guide UG1414, "Currently Supported Operators").
MAX_GROUPS = 256


@dataclass(frozen=True)
class Program:
    """What a DPU executes for one image."""

    network: str
    dpu: Dpu
    image: str
    allocation: Allocation
    tape: Tape
    #: Whether weights are loaded ahead of the layer that needs them: the compiler does so iff nothing spills.
    prefetch: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in execution order."""
        return self.allocation.layers

    @property
    def instructions(self) -> Iterator[Instruction]:
        """The program, entry by entry."""
        return self.tape.instructions(tuple(layer.name for layer in self.layers))

    def __str__(self) -> str:
        return "\n".join(f"{i:6d} {instruction}" for i, instruction in enumerate(self.instructions))

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """The program as arrays: kind, layer, repeat, bytes, words, cycles."""
        names = ("kind", "layer", "repeat", "bytes", "words", "cycles")
        return {name: np.array(getattr(self.tape, name), dtype=np.int64) for name in names}

    def count(self, *kinds: Kind) -> int:
        """Instructions of these kinds."""
        return self._sum(kinds, None)

    def bytes(self, *kinds: Kind) -> int:
        """Bytes that instructions of these kinds move."""
        return self._sum(kinds, "bytes")

    def cycles(self, *kinds: Kind) -> int:
        """Cycles of work in instructions of these kinds, without their issue."""
        return self._sum(kinds, "cycles")

    def _sum(self, kinds: tuple[Kind, ...], column: str | None) -> int:
        chosen = np.isin(self.columns["kind"], kinds)
        per_one = self.columns[column][chosen] if column else 1
        return int((self.columns["repeat"][chosen] * per_one).sum())

    @property
    def weight_loads(self) -> int:
        """LOADs of weights and biases."""
        return self.count(Kind.LOAD_WEIGHTS, Kind.LOAD_BIAS)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases loaded."""
        return self.bytes(Kind.LOAD_WEIGHTS, Kind.LOAD_BIAS)

    @property
    def spilled_bytes(self) -> int:
        """Bytes of feature maps read back from external memory."""
        return self.bytes(Kind.LOAD_ROWS)

    @property
    def image_bytes(self) -> int:
        """Bytes of the input image loaded, its columns repeated where the first convolution wants them so."""
        return self.bytes(Kind.LOAD_IMAGE)

    @property
    def saved_bytes(self) -> int:
        """Bytes of feature maps written to external memory, the result included."""
        return self.bytes(Kind.SAVE)

    @property
    def fits_on_chip(self) -> bool:
        """Whether only the image and the result touch external memory."""
        return self.prefetch


def schedule(graph: Graph, dpu: Dpu) -> Program:
    """The program of `graph` on `dpu`; raises GraphError naming the layer when the DPU cannot hold one."""
    check_fits(graph, dpu)
    fused = fuse(graph)
    allocation = allocate(fused, dpu)
    result = fused.result
    prefetch = all(allocation.on_chip(layer.output) or layer.output == result for layer in allocation.layers)
    tape = emit(allocation, fused.image, dpu, prefetch=prefetch)
    return Program(graph.name, dpu, fused.image, allocation, tape, prefetch)


def check_fits(graph: Graph, dpu: Dpu) -> None:
    """Raise GraphError, naming the layer, when `dpu` cannot hold a shape of `graph`."""
    for node in graph.nodes:
        shapes = [as_image(graph.by_name[name].shape) for name in node.inputs]
        _check_window(node, dpu)
        _check_memory(node, shapes, dpu)


def _check_window(node: Node, dpu: Dpu) -> None:
    if isinstance(node, Conv | Depthwise | Pool):
        kernel, stride = (MAX_POOL, MAX_POOL) if isinstance(node, Pool) else (dpu.max_kernel, dpu.max_stride)
        if max(node.kernel) > kernel:
            raise GraphError(f"layer {node.name!r}: kernel {node.kernel}; {dpu.name} takes 1..{kernel} per axis")
        if max(node.stride) > stride:
            raise GraphError(f"layer {node.name!r}: stride {node.stride}; {dpu.name} takes 1..{stride} per axis")


def _check_memory(node: Node, shapes: list[tuple[int, int, int]], dpu: Dpu) -> None:
    words = 0
    if isinstance(node, Conv | Depthwise | Linear):
        kernel = (1, 1) if isinstance(node, Linear) else node.kernel
        channels = 1 if isinstance(node, Depthwise) else shapes[0][2]
        words = kernel[0] * kernel[1] * -(-channels // dpu.input_parallel)
        if words > dpu.bank_words:
            raise GraphError(
                f"layer {node.name!r}: the weights of one output channel, {kernel[0]} x {kernel[1]} x {channels}, take {words}"
                f" words; a weight bank of {dpu.name} has {dpu.bank_words}: use fewer input channels or a smaller kernel"
            )
    if isinstance(node, Conv | Linear) and node.shape[-1] > MAX_GROUPS * dpu.output_parallel:
        limit = MAX_GROUPS * dpu.output_parallel
        raise GraphError(f"layer {node.name!r}: {node.shape[-1]} output channels; {dpu.name} takes at most {limit}")
    if isinstance(node, Conv | Depthwise) and max(node.dilation) > 1:
        limit = MAX_GROUPS * dpu.input_parallel
        if max(node.dilation) * shapes[0][2] > limit:
            raise GraphError(
                f"layer {node.name!r}: dilation {node.dilation} of {shapes[0][2]} channels; their product is limited to {limit}"
            )
    if isinstance(node, Conv | Depthwise | Pool | Concat | Activation):
        pixel = tensor_words((1, 1, as_image(node.shape)[2]), dpu)
        if pixel > dpu.bank_words:
            raise GraphError(
                f"layer {node.name!r}: {as_image(node.shape)[2]} channels take {pixel} words a pixel; a bank of {dpu.name} has"
                f" {dpu.bank_words}"
            )
