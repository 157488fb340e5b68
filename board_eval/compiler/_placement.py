"""A place for every feature map: on chip while there is room, in external memory with rings of rows otherwise.

Layers are placed in order. Where a layer's buffers find no room, the largest feature map that lies on chip at that moment goes to
external memory, and the placement starts again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgesearch.board_eval.compiler._banks import Group
from edgesearch.board_eval.compiler._plan import (
    External,
    LayerPlan,
    Operand,
    Plan,
    Tile,
    augmented,
    is_convolution,
    is_elementwise,
    slides,
    steady,
)
from edgesearch.board_eval.compiler._rows import Rows, ceil_div
from edgesearch.board_eval.compiler._tiles import tiles_of
from edgesearch.board_eval.graph import Graph, Node, Pool
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Fused, Layer, Window, fuse
from edgesearch.errors import CompileError

__all__ = ["CONST", "INPUT", "OUTPUT", "WORKSPACE", "place"]

#: Registers with the base addresses of external memory, as compiled files use them.
CONST, WORKSPACE, INPUT, OUTPUT = 0, 1, 2, 3
#: Addresses of feature maps are multiples of it.
_ALIGNMENT = 64


def place(graph: Graph, target: Target, *, spilled: Iterable[str] = ()) -> Plan:
    """The plan of a legal graph; feature maps in `spilled` go to external memory in any case.

    Raises CompileError for a layer whose buffers do not fit even so: which layer, how many words, of how many.
    """
    outside = set(spilled)
    prepared = _Prepared(fuse(graph), target)
    while True:
        try:
            return _Placer(prepared, outside).run()
        except _NoRoom as full:
            if full.victim is None:
                raise CompileError(full.sentence) from None
            outside.add(full.victim)


class _NoRoom(Exception):
    def __init__(self, sentence: str, victim: str | None) -> None:
        super().__init__(sentence)
        self.sentence, self.victim = sentence, victim


class _Prepared:
    """Layers in the form the compiler writes them, and who reads what."""

    def __init__(self, fused: Fused, target: Target) -> None:
        self.fused = fused
        self.graph = fused.graph
        self.target = target
        self.tensors = dict(fused.tensors)
        self.layers = [part for layer in fused.layers for part in self._prepared(layer)]

    def _prepared(self, layer: Layer) -> Iterator[Layer]:
        """The layer, in two where the window behind its convolution cannot be fused."""
        window = steady(layer.window, layer.mid_shape, layer.in_shape, self.target)
        layer = dataclasses.replace(layer, window=window)
        if layer.post not in ("depthwise", "pool"):
            yield layer
            return
        behind = steady(layer.post_window, layer.out_shape, layer.mid_shape, self.target)
        chunk = (self.target.alu_rows - 1) * behind.stride[0] + behind.rows + self.target.pixel_parallel
        rounds = ceil_div(chunk, self.target.pixel_parallel * behind.stride[0])
        if behind.stride[0] <= 2 and rounds <= 3 and not is_thinning(self.graph.by_name[layer.nodes[1]]):
            yield dataclasses.replace(layer, post_window=behind)
            return
        name, post = layer.nodes
        self.tensors[name] = layer.mid_shape
        yield dataclasses.replace(
            layer, nodes=(name,), output=name, out_shape=layer.mid_shape, post="none", post_window=Window(), post_bias=False
        )
        yield Layer(
            name=post,
            kind=layer.post,
            nodes=(post,),
            source=name,
            output=layer.output,
            in_shape=layer.mid_shape,
            mid_shape=layer.out_shape,
            out_shape=layer.out_shape,
            window=behind,
            has_bias=layer.post_bias,
        )

    def main(self, layer: Layer) -> Node:
        """The node of the main operation."""
        return self.graph.by_name[layer.nodes[0]]

    def post(self, layer: Layer) -> Node | None:
        """The node fused behind it."""
        return self.graph.by_name[layer.nodes[1]] if layer.post != "none" else None

    def demand(self, layer: Layer, tensor: str) -> int | None:
        """How many rows to a bank the layer wants of a feature map on chip that it reads; None: any number will do."""
        if layer.kind == "copy":
            return None
        if layer.skip == tensor and layer.source != tensor:
            return 1
        main = self.main(layer)
        return layer.window.stride[0] if is_convolution(main) or (slides(main) and not is_thinning(main)) else 1


def is_thinning(node: Node) -> bool:
    """Whether the node only leaves out rows and columns."""
    return isinstance(node, Pool) and node.kind == "max" and node.kernel == (1, 1) and node.padding == (0, 0, 0, 0)


@dataclass(frozen=True)
class _Need:
    """A buffer of a layer: rows without an address, and the groups in which it may lie."""

    role: str
    rows: Rows


class _Placer:
    def __init__(self, prepared: _Prepared, outside: set[str]) -> None:
        self.prepared = prepared
        self.target = prepared.target
        self.fused = prepared.fused
        self.outside = outside
        self.tensors = dict(prepared.tensors)
        self.groups = [Group(self.target.bank_words) for _ in range(self.target.feature_groups)]
        self.chip: dict[str, Rows] = {}
        self.every: dict[str, Rows] = {}
        self.external: dict[str, External] = {}
        self.workspace = 0
        self.input_bytes = self.output_bytes = 0
        self.thinned: dict[str, str] = {}
        self.layers = self._with_thinning()
        self.readers: dict[str, list[str]] = {}
        for layer in self.layers:
            for name in _reads(layer):
                self.readers.setdefault(name, []).append(layer.name)

    def run(self) -> Plan:
        self._place_image()
        plans = [self._layer(layer) for layer in self.layers]
        return Plan(
            self.prepared.graph,
            tuple(plans),
            self.external,
            self.every,
            max(self.workspace, _ALIGNMENT),
            self.input_bytes,
            self.output_bytes,
        )

    # -- who wants what

    def _is_external(self, name: str) -> bool:
        return name in self.fused.external or name in self.outside

    def _demands(self, layers: Iterable[Layer], name: str) -> set[int]:
        found = {self.prepared.demand(layer, name) for layer in layers if name in _reads(layer)}
        return {demand for demand in found if demand is not None}

    def _with_thinning(self) -> list[Layer]:
        """Strided 1x1 convolutions read a thinned copy where others read the same feature map row by row."""
        out: list[Layer] = []
        changed: dict[str, Layer] = {}
        for layer in self.prepared.layers:
            layer = changed.get(layer.name, layer)
            out.append(layer)
            name = layer.output
            if self._is_external(name):
                continue
            readers = [changed.get(other.name, other) for other in self.prepared.layers if name in _reads(other)]
            if len(self._demands(readers, name)) < 2:
                continue
            for reader in readers:
                if self._can_thin(reader, name):
                    thin = self._thin(reader, name, out)
                    window = dataclasses.replace(reader.window, stride=(1, 1))
                    changed[reader.name] = dataclasses.replace(reader, source=thin, in_shape=self.tensors[thin], window=window)
            rest = [changed.get(other.name, other) for other in self.prepared.layers]
            if len(self._demands(rest, name)) > 1:
                self.outside.add(name)
                raise _NoRoom(f"{name!r} is read with several strides", name)
        return out

    def _can_thin(self, reader: Layer, name: str) -> bool:
        window = reader.window
        only = window.kernel == (1, 1) and window.padding == (0, 0, 0, 0) and window.stride[0] == 2
        return only and reader.kind == "conv" and reader.source == name and reader.skip != name

    def _thin(self, reader: Layer, name: str, out: list[Layer]) -> str:
        thin = f"{name}/every{reader.window.stride[0]}x{reader.window.stride[1]}"
        if thin not in self.tensors:
            shape = (*reader.mid_shape[:2], reader.in_shape[2])
            self.tensors[thin] = shape
            window = Window((1, 1), reader.window.stride)
            out.append(Layer(thin, "downsample", (reader.nodes[0],), name, thin, reader.in_shape, shape, shape, window))
        return thin

    def _rows_to_a_bank(self, name: str) -> int | None:
        """How many rows of a new feature map share a bank; None: it cannot stay on chip."""
        demands = self._demands(self.layers, name) or {1}
        (stride,) = demands if len(demands) == 1 else (0,)
        return stride if stride in (1, 2) else None

    # -- external memory

    def _place_image(self) -> None:
        height, width, channels = self.tensors[self.fused.image]
        before = after = 0
        for layer in self.layers:
            if layer.source == self.fused.image and augmented(layer, self.fused.image, self.target):
                before, after = self._margins(layer, before, after)
        size = height * width * channels
        self.external[self.fused.image] = External(
            INPUT, before, (height, width, channels), pixel_pitch=channels, row_pitch=width * channels
        )
        self.input_bytes = before + size + after

    def _margins(self, layer: Layer, before: int, after: int) -> tuple[int, int]:
        """Bytes in front of the image and behind it that LOADs of padded windows read and mask."""
        left, right, _, _ = layer.window.padding
        channels = layer.in_shape[2]
        words = ceil_div(layer.window.kernel[1] * channels, self.target.input_parallel)
        # rounded up: what a piece reads is counted in whole words
        reach = words * self.target.input_parallel
        return max(before, left * channels), max(after, right * channels + reach)

    def _outside(self, name: str) -> External:
        known = self.external.get(name)
        if known is not None:
            return known
        shape = self.tensors.get(name) or self.fused.tensors[name]
        whole_name = self.fused.written_into.get(name)
        if whole_name is not None:
            whole = self._outside(whole_name)
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
            made = External(register, address, shape, channels, width * channels)
        self.external[name] = made
        return made

    def _read_external(self, layer: Layer, name: str) -> tuple[Layer, External]:
        """What a layer reads of a feature map in external memory: reshaped, or thinned while it is loaded."""
        view = self._outside(name)
        if name != layer.source:
            return layer, view
        if view.shape != layer.in_shape:
            height, width, channels = layer.in_shape
            assert view.contiguous  # parts of a concat are copied before they are reshaped
            view = External(view.register, view.address, layer.in_shape, channels, width * channels)
        window = layer.window
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

    # -- one layer

    def _layer(self, layer: Layer) -> LayerPlan:
        views: dict[str, External] = {}
        for name in _reads(layer):
            if name not in self.chip:
                layer, views[name] = self._read_external(layer, name)
        largest = 0
        for tiles, blocks, roomy in self._choices(layer, views):
            needs = self._needs(layer, views, tiles, blocks, roomy)
            largest = max(largest, min((need.rows.words for need in needs), default=0))
            found = self._assign(layer, needs)
            if found is not None:
                plan = self._planned(layer, views, tiles, blocks, found)
                self._finish(layer, needs, found)
                return plan
        raise self._no_room(layer, views)

    def _choices(
        self, layer: Layer, views: Mapping[str, External]
    ) -> Iterator[tuple[tuple[Tile, ...], tuple[range, ...], bool]]:
        """Ways to cut the layer, the least cut first: columns, blocks of channels, and whether rings hold a stripe more."""
        groups = ceil_div(layer.out_shape[2], self.target.output_parallel)
        most = self._groups_at_once(layer)
        columns = layer.out_shape[1]
        cuts = sorted(
            itertools.product(_cuts(columns), _cuts(ceil_div(groups, 1))),
            key=lambda cut: (cut[0] * cut[1], cut[0 if layer.source not in views else 1]),
        )
        seen = set()
        for pieces, parts in cuts:
            block = min(most, ceil_div(groups, parts))
            if layer.kind == "copy" and parts > 1:
                continue
            if (pieces, block) in seen:
                continue
            seen.add((pieces, block))
            tiles = tiles_of(layer, pieces, both_pads=not self._is_augmented(layer))
            blocks = tuple(range(first, min(first + block, groups)) for first in range(0, groups, block))
            yield tiles, blocks, True
            yield tiles, blocks, False

    def _is_augmented(self, layer: Layer) -> bool:
        return augmented(layer, self.fused.image, self.target)

    def _groups_at_once(self, layer: Layer) -> int:
        """Words of a pixel whose weights fit into their banks."""
        depth, main, post = self.target.bank_words, self.prepared.main(layer), self.prepared.post(layer)
        most = self.target.limits.channel_groups
        if is_convolution(main) and layer.kind == "conv":
            most = min(most, depth // self._steps(layer))
        for node, window in ((main, layer.window), (post, layer.post_window)):
            if slides(node) and layer.kind not in ("copy", "downsample"):
                most = min(
                    most, depth // (window.kernel[0] * window.kernel[1]) if getattr(node, "weight_fix", 0) is not None else most
                )
        return max(1, most)

    def _steps(self, layer: Layer) -> int:
        kernel_h, kernel_w = layer.window.kernel
        channels = layer.in_shape[2]
        if self._is_augmented(layer):
            return kernel_h * ceil_div(kernel_w * channels, self.target.input_parallel)
        return kernel_h * kernel_w * ceil_div(channels, self.target.input_parallel)

    def _needs(
        self, layer: Layer, views: Mapping[str, External], tiles: tuple[Tile, ...], blocks: tuple[range, ...], roomy: bool
    ) -> list[_Need]:
        target = self.target
        parallel, alu = target.pixel_parallel, target.alu_rows
        block = max(map(len, blocks))
        main = self.prepared.main(layer)
        convolves = layer.kind == "conv"
        step = parallel if convolves else (alu if slides(main) and layer.kind != "copy" else parallel)
        needs: list[_Need] = []
        mid = max(len(tile.mid) for tile in tiles)
        if layer.source in views:
            stride = layer.window.stride[0]
            pixel = ceil_div(layer.in_shape[2], target.input_parallel) if convolves else block
            columns = max(len(tile.read) for tile in tiles)
            if self._is_augmented(layer):
                pixel, columns = ceil_div(layer.window.kernel[1] * layer.in_shape[2], target.input_parallel), mid
            rows = (step - 1) * stride + layer.window.kernel[0] + (step * stride if roomy else 0)
            needs.append(_Need("source", self._ring(rows, layer.in_shape[0], stride, columns, pixel)))
        if layer.skip is not None and layer.skip in views and layer.skip != layer.source:
            columns = max(len(tile.out) for tile in tiles)
            needs.append(_Need("skip", self._ring(2 * parallel if roomy else parallel, layer.out_shape[0], 1, columns, block)))
        if layer.post != "none":
            stride = layer.post_window.stride[0] if layer.post != "add" else 1
            window = (alu - 1) * stride + layer.post_window.kernel[0] if layer.post != "add" else 0
            rows = window + (2 * parallel if roomy else parallel)
            needs.append(_Need("middle", self._ring(rows, layer.mid_shape[0], stride, mid, block)))
        if layer.kind != "copy":
            needs += self._output_need(layer, tiles, block, roomy)
        return needs

    def _output_need(self, layer: Layer, tiles: tuple[Tile, ...], block: int, roomy: bool) -> list[_Need]:
        stride = None if self._is_external(layer.output) else self._rows_to_a_bank(layer.output)
        if stride is None:
            columns = max(len(tile.out) for tile in tiles)
            rows = (2 if roomy else 1) * self.target.pixel_parallel
            return [_Need("ring", self._ring(rows, layer.out_shape[0], 1, columns, block))]
        height, width, channels = layer.out_shape
        rows_all = self._ring(height, height, stride, width, ceil_div(channels, self.target.output_parallel))
        if self._overwrites(layer, rows_all):
            return []
        return [_Need("output", rows_all)]

    def _overwrites(self, layer: Layer, rows: Rows) -> bool:
        """Whether the sum can take the place of its other operand, which nobody reads later."""
        skip = self.chip.get(layer.skip or "")
        return (
            skip is not None
            and self.readers[layer.skip or ""] == [layer.name]
            and layer.source != layer.skip
            and (skip.stride, skip.pixel, skip.columns, skip.rounds) == (rows.stride, rows.pixel, rows.columns, rows.rounds)
        )

    def _ring(self, rows: int, height: int, stride: int, columns: int, pixel: int) -> Rows:
        banks = self.target.pixel_parallel
        rounds = min(ceil_div(rows, banks * stride), ceil_div(height, banks * stride))
        return Rows(0, banks, self.target.bank_words, 0, pixel, columns, stride, rounds)

    # -- room on chip

    def _assign(self, layer: Layer, needs: list[_Need]) -> dict[str, Rows] | None:
        """An address for every buffer, None where there is no room. An operand and a result lie in different groups if they can."""
        count = len(self.groups)
        fixed = {role: self.chip[name].first_bank // self.target.pixel_parallel for role, name in self._on_chip(layer)}
        ranked = sorted(
            itertools.product(range(count), repeat=len(needs)),
            key=lambda choice: self._crowding(dict(zip((need.role for need in needs), choice, strict=True)) | fixed),
        )
        for choice in ranked:
            roles = dict(zip((need.role for need in needs), choice, strict=True)) | fixed
            if self._all_alike(layer, roles):
                continue
            groups = [group.copy() for group in self.groups]
            found: dict[str, Rows] = {}
            for need, group in zip(needs, choice, strict=True):
                address = groups[group].take(need.rows.words)
                if address is None:
                    break
                found[need.role] = need.rows.at(address, group * self.target.pixel_parallel)
            else:
                self.groups = groups
                return found
        return None

    def _on_chip(self, layer: Layer) -> Iterator[tuple[str, str]]:
        if layer.source in self.chip:
            yield "source", layer.source
        if layer.skip is not None and layer.skip in self.chip:
            yield "skip", layer.skip

    @staticmethod
    def _crowding(roles: Mapping[str, int]) -> int:
        """Pairs of buffers, read and written by one instruction, in the same group; the ends of the chain weigh least."""
        chain = [roles[role] for role in ("source", "middle", "output", "ring") if role in roles]
        apart = sum(4 for a, b in itertools.pairwise(chain) if a == b)
        return apart + sum(2 for role in ("source", "middle") if role in roles and roles.get("skip") == roles[role])

    @staticmethod
    def _all_alike(layer: Layer, roles: Mapping[str, int]) -> bool:
        """Whether an elementwise operation would have both operands and its result in one group, which no compiled file has."""
        if layer.skip is None:
            return False
        first = roles.get("middle", roles.get("source"))
        skip = roles.get("skip", first)
        last = roles.get("output", roles.get("ring", skip))
        return first == skip == last

    def _planned(
        self,
        layer: Layer,
        views: Mapping[str, External],
        tiles: tuple[Tile, ...],
        blocks: tuple[range, ...],
        found: Mapping[str, Rows],
    ) -> LayerPlan:
        def operand(role: str, name: str) -> Operand:
            return Operand(name, found[role], views[name]) if name in views else Operand(name, self.chip[name], None)

        source = operand("source", layer.source)
        skip = None
        if layer.skip is not None:
            skip = source if layer.skip == layer.source else operand("skip", layer.skip)
        if layer.kind == "copy":
            output = Operand(layer.output, source.rows, self._outside(layer.output))
        elif "ring" in found:
            output = Operand(layer.output, found["ring"], self._outside(layer.output))
        elif "output" in found:
            output = Operand(layer.output, found["output"], None)
        else:
            assert layer.skip is not None
            output = Operand(layer.output, self.chip[layer.skip], None)
        main = self.prepared.main(layer)
        post, middle = self.prepared.post(layer), found.get("middle")
        return LayerPlan(layer, main, post, source, skip, middle, output, tiles, blocks, self._is_augmented(layer))

    def _finish(self, layer: Layer, needs: list[_Need], found: Mapping[str, Rows]) -> None:
        """Give back buffers, and feature maps that nobody reads any more."""
        for role, rows in found.items():
            if role != "output":
                self._give(rows)
        if "output" in found:
            self.chip[layer.output] = self.every[layer.output] = found["output"]
        elif layer.kind != "copy" and "ring" not in found:
            assert layer.skip is not None  # the sum lies where its operand lay
            self.chip[layer.output] = self.every[layer.output] = self.chip.pop(layer.skip)
        for name in _reads(layer):
            self.readers[name].remove(layer.name)
            if not self.readers[name] and name in self.chip:
                self._give(self.chip.pop(name))

    def _give(self, rows: Rows) -> None:
        self.groups[rows.first_bank // self.target.pixel_parallel].give(rows.address, rows.words)

    def _no_room(self, layer: Layer, views: Mapping[str, External]) -> _NoRoom:
        candidates = {name: rows.words for name, rows in self.chip.items()}
        if not self._is_external(layer.output) and self._rows_to_a_bank(layer.output) is not None and layer.kind != "copy":
            needs = self._output_need(layer, (Tile(range(1), range(1), range(1)),), 1, False)
            candidates.update({layer.output: need.rows.words for need in needs})
        if candidates:
            return _NoRoom("", max(candidates, key=lambda name: (candidates[name], name)))
        *_, (tiles, blocks, roomy) = self._choices(layer, views)
        words = sum(need.rows.words for need in self._needs(layer, views, tiles, blocks, roomy))
        return _NoRoom(
            f"layer {layer.name!r} needs {words} words of every bank for a column of its feature maps, and {self.target.name} has "
            f"{len(self.groups)} x {self.target.bank_words}: use fewer channels, smaller kernels, or smaller strides",
            None,
        )


def _cuts(count: int) -> list[int]:
    """Numbers of pieces worth trying: all small ones, then ever larger steps, up to single ones."""
    out, pieces = [], 1
    while pieces < count:
        out.append(pieces)
        pieces = max(pieces + 1, pieces * 5 // 4)
    return [*out, count]


def _reads(layer: Layer) -> tuple[str, ...]:
    return tuple(dict.fromkeys((layer.source,) if layer.skip is None else (layer.source, layer.skip)))
