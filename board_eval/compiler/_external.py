"""Addresses in external memory: the image, the result, concats with their parts, and what finds no room on chip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from edgesearch.board_eval.compiler._plan import External
from edgesearch.board_eval.compiler._prepare import Prepared
from edgesearch.board_eval.compiler._rows import ceil_div
from edgesearch.board_eval.isa import ADDRESS_REACH
from edgesearch.board_eval.timing import Layer
from edgesearch.board_eval.xmodel import INPUT, OUTPUT, WORKSPACE
from edgesearch.errors import CompileError

__all__ = ["ExternalMemory", "check_address"]

#: Addresses of feature maps are multiples of it.
_ALIGNMENT = 64


def check_address(layer: str, what: str, stop: int) -> None:
    """Raise CompileError for what ends behind the last byte that an instruction reaches."""
    if stop > ADDRESS_REACH:
        raise CompileError(
            f"layer {layer!r}: {what} would end at byte {stop} of its memory, instructions reach {ADDRESS_REACH}: "
            "make it smaller"
        )


class ExternalMemory:
    """Feature maps in external memory. Each has bytes of its own: reuse would make one layer wait for another."""

    def __init__(self, prepared: Prepared, layers: Iterable[Layer], tensors: Mapping[str, tuple[int, int, int]]) -> None:
        self.prepared = prepared
        self.fused = prepared.fused
        self.target = prepared.target
        self.tensors = tensors
        self.known: dict[str, External] = {}
        self.workspace = 0
        self.input_bytes = self.output_bytes = 0
        self._place_image(layers)

    def _place_image(self, layers: Iterable[Layer]) -> None:
        height, width, channels = self.tensors[self.fused.image]
        before = after = 0
        for layer in layers:
            if self.prepared.augmented(layer):
                before, after = self._margins(layer, before, after)
        size = height * width * channels
        self.known[self.fused.image] = External(
            INPUT, before, (height, width, channels), pixel_pitch=channels, row_pitch=width * channels
        )
        self.input_bytes = before + size + after
        check_address(self.fused.image, "the image", self.input_bytes)

    def _margins(self, layer: Layer, before: int, after: int) -> tuple[int, int]:
        """Bytes in front of the image and behind it that LOADs of padded windows read and mask."""
        left, right, _, _ = layer.window.padding
        channels = layer.in_shape[2]
        words = ceil_div(layer.window.kernel[1] * channels, self.target.input_parallel)
        # rounded up: what a piece reads is counted in whole words
        reach = words * self.target.input_parallel
        return max(before, left * channels), max(after, right * channels + reach)

    def of(self, name: str) -> External:
        """Where a feature map lies; it gets a place when it is first asked for."""
        known = self.known.get(name)
        if known is not None:
            return known
        shape = self.tensors.get(name) or self.fused.tensors[name]
        whole_name = self.fused.written_into.get(name)
        if whole_name is not None:
            whole = self.of(whole_name)
            start = whole.address + self.fused.first_channel[name]
            made = External(whole.register, start, shape, whole.pixel_pitch, whole.row_pitch)
        else:
            height, width, channels = shape
            size = height * width * channels
            if name == self.fused.result:
                register, address = OUTPUT, 0
                self.output_bytes = size
            else:
                register, address = WORKSPACE, self.workspace
                self.workspace += ceil_div(size, _ALIGNMENT) * _ALIGNMENT
            check_address(name, "its feature map", address + size)
            made = External(register, address, shape, channels, width * channels)
        self.known[name] = made
        return made

    def shaped(self, name: str, shape: tuple[int, int, int]) -> External:
        """A feature map under the shape in which it is read."""
        view = self.of(name)
        if view.shape == shape:
            return view
        _, width, channels = shape
        assert view.contiguous  # parts of a concat are copied before they are reshaped
        return External(view.register, view.address, shape, channels, width * channels)

    def read_by(self, layer: Layer) -> tuple[Layer, External]:
        """What a layer reads of its source in external memory: reshaped, or thinned while it is loaded."""
        view, window = self.shaped(layer.source, layer.in_shape), layer.window
        if window.kernel == (1, 1) and window.padding == (0, 0, 0, 0) and window.stride != (1, 1):
            height, width, channels = *layer.mid_shape[:2], layer.in_shape[2]
            view = External(
                view.register,
                view.address,
                (height, width, channels),
                view.pixel_pitch * window.stride[1],
                view.row_pitch * window.stride[0],
            )
            layer = dataclasses.replace(layer, in_shape=view.shape, window=dataclasses.replace(window, stride=(1, 1)))
        return layer, view
