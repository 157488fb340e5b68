"""Where every tensor lies while the network runs: in one of the DPU's two feature-map memories, or in external memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing._fusion import Fused, Image, Layer, Window


@dataclass(frozen=True)
class Allocation:
    """The layers, with the downsamplings that on-chip sources need, and the place of every tensor."""

    layers: tuple[Layer, ...]
    tensors: Mapping[str, Image]
    #: Tensor -> feature-map group, None for external memory.
    place: Mapping[str, int | None]
    #: Tensors that went to external memory because the chip had no room, in the order they were made.
    spilled: tuple[str, ...]
    #: A concat's parts: part -> the tensor it is written into by strides.
    written_into: Mapping[str, str]

    def on_chip(self, tensor: str) -> bool:
        """Whether `tensor` stays on the chip."""
        return self.place[tensor] is not None


def tensor_words(shape: Image, dpu: Target) -> int:
    """Words per bank of a feature map: rows are dealt over the banks, channels packed into words."""
    height, width, channels = shape
    return -(-height // dpu.pixel_parallel) * width * -(-channels // dpu.input_parallel)


def allocate(fused: Fused, dpu: Target) -> Allocation:
    """Place the outputs layer by layer: the group the source is not in, then its own, then external memory.

    An addition may overwrite its other operand when that has no later reader. A strided 1x1 convolution whose source lies on
    chip gets it thinned out by an elementwise step of its own, as soon as the source is there.
    """
    return _Allocator(fused, dpu).run()


class _Allocator:
    def __init__(self, fused: Fused, dpu: Target) -> None:
        self.fused = fused
        self.dpu = dpu
        self.free = [dpu.bank_words] * dpu.feature_groups
        self.place: dict[str, int | None] = dict.fromkeys((fused.image, *fused.written_into.values()))
        self.tensors = dict(fused.tensors)
        self.readers = _readers(fused.layers)
        self.thinned: dict[tuple[str, tuple[int, int]], str] = {}
        self.overwritten: set[str] = set()
        self.spilled: list[str] = []
        self.layers: list[Layer] = []

    def run(self) -> Allocation:
        for layer in self.fused.layers:
            layer = self._read_thinned(layer)
            self._put(layer)
            self.layers.append(layer)
            self._release(layer)
            self._thin(layer.output)
        return Allocation(tuple(self.layers), self.tensors, self.place, tuple(self.spilled), self.fused.written_into)

    def _put(self, layer: Layer) -> None:
        name = layer.output
        if name in self.fused.external:
            self.place[name] = None
            return
        words = tensor_words(self.tensors[name], self.dpu)
        skip = layer.skip
        if skip is not None and self._dies(skip) and tensor_words(self.tensors[skip], self.dpu) == words:
            group = self.place[skip]
            if group is not None:
                self.place[name] = group
                self.overwritten.add(skip)
                return
        group = self._room(words, self.place[layer.source])
        if group is None:
            self.place[name] = None
            self.spilled.append(name)
        else:
            self._take(name, words, group)

    def _room(self, words: int, source: int | None) -> int | None:
        groups = [g for g in range(len(self.free)) if g != source] + ([] if source is None else [source])
        return next((g for g in groups if self.free[g] >= words), None)

    def _take(self, name: str, words: int, group: int) -> None:
        self.free[group] -= words
        self.place[name] = group
        if not self.readers.get(name):  # nobody reads it
            self.free[group] += words

    def _dies(self, name: str) -> bool:
        return len(self.readers[name]) == 1

    def _release(self, layer: Layer) -> None:
        for name in _reads(layer):
            readers = self.readers[name]
            readers.remove(layer.name)
            group = self.place[name]
            if not readers and group is not None and name not in self.overwritten:
                self.free[group] += tensor_words(self.tensors[name], self.dpu)

    # -- strided 1x1 convolutions

    def _strided_readers(self, tensor: str) -> list[Layer]:
        names = set(self.readers.get(tensor, ()))
        return [
            layer
            for layer in self.fused.layers
            if layer.name in names
            and layer.kind == "conv"
            and layer.source == tensor
            and layer.window.kernel == (1, 1)
            and layer.window.stride != (1, 1)
            and layer.window.padding == (0, 0, 0, 0)
        ]

    def _thin(self, tensor: str) -> None:
        if self.place[tensor] is None:
            return
        for reader in self._strided_readers(tensor):
            key = (tensor, reader.window.stride)
            if key not in self.thinned:
                shape = (*reader.mid_shape[:2], reader.in_shape[2])
                group = self._room(tensor_words(shape, self.dpu), self.place[tensor])
                if group is None:
                    continue
                name = f"{tensor}/every{reader.window.stride[0]}x{reader.window.stride[1]}"
                self.tensors[name] = shape
                self.readers[name] = [reader.name]
                self._take(name, tensor_words(shape, self.dpu), group)
                self.thinned[key] = name
                window = Window((1, 1), reader.window.stride)
                nodes = (reader.name,)
                self.layers.append(Layer(name, "downsample", nodes, tensor, name, reader.in_shape, shape, shape, window))
            else:
                self.readers[self.thinned[key]].append(reader.name)
            if reader.skip != tensor:  # else it reads the whole map, too
                self.readers[tensor].remove(reader.name)
        if not self.readers[tensor]:
            self.free[self._group(tensor)] += tensor_words(self.tensors[tensor], self.dpu)

    def _group(self, tensor: str) -> int:
        group = self.place[tensor]
        assert group is not None
        return group

    def _read_thinned(self, layer: Layer) -> Layer:
        name = self.thinned.get((layer.source, layer.window.stride))
        if name is None or layer.name not in self.readers[name]:
            return layer
        window = dataclasses.replace(layer.window, stride=(1, 1))
        return dataclasses.replace(layer, source=name, in_shape=self.tensors[name], window=window)


def _reads(layer: Layer) -> tuple[str, ...]:
    return tuple(dict.fromkeys((layer.source,) if layer.skip is None else (layer.source, layer.skip)))


def _readers(layers: Iterable[Layer]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for layer in layers:
        for name in _reads(layer):
            out.setdefault(name, []).append(layer.name)
    return out
