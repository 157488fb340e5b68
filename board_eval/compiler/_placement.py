"""A place for every feature map: on chip while there is room, in external memory with rings of rows otherwise.

Layers are placed in order. Where a layer's buffers find no room, the largest feature map that lies on chip at that moment goes
to external memory, and the placement starts again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgesearch.board_eval.compiler._banks import Group
from edgesearch.board_eval.compiler._buffers import Cut, Need, buffers, cuts, output_ring, output_rows
from edgesearch.board_eval.compiler._external import ExternalMemory
from edgesearch.board_eval.compiler._names import check_free
from edgesearch.board_eval.compiler._plan import External, LayerPlan, Operand, Plan
from edgesearch.board_eval.compiler._prepare import Prepared
from edgesearch.board_eval.compiler._rows import Rows
from edgesearch.board_eval.compiler._sequence import reads
from edgesearch.board_eval.graph import Graph
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Layer, Window
from edgesearch.errors import CompileError

__all__ = ["Choices", "place"]


@dataclass(frozen=True)
class Choices:
    """What a plan does otherwise than the first that fits: what a search over schedules tries."""

    #: Feature maps that go to external memory though there may be room.
    outside: frozenset[str] = frozenset()
    #: Layer -> how many of its cuts that fit are passed over.
    passed: tuple[tuple[str, int], ...] = ()
    #: Layers that come before the one they would follow, in turn.
    earlier: tuple[str, ...] = ()


def place(graph: Graph, target: Target, choices: Choices | None = None) -> Plan:
    """The plan of a legal graph.

    Raises CompileError for a layer whose buffers do not fit even so: which layer, how many words, of how many.
    """
    choices = choices or Choices()
    prepared = Prepared(graph, target, choices.earlier)
    spilled = set(choices.outside)
    while True:
        try:
            return _Placer(prepared, spilled, dict(choices.passed)).run()
        except _NoRoom as full:
            if full.victim is None:
                raise CompileError(full.sentence) from None
            spilled.add(full.victim)


class _NoRoom(Exception):
    """A layer found no room; `victim` should go to external memory, None: nothing is left that could."""

    def __init__(self, sentence: str, victim: str | None) -> None:
        super().__init__(sentence)
        self.sentence, self.victim = sentence, victim


@dataclass(frozen=True)
class _Assigned:
    """Buffers with addresses, and the groups with them taken."""

    rows: dict[str, Rows]
    groups: list[Group]


class _Placer:
    def __init__(self, prepared: Prepared, outside: set[str], passed: Mapping[str, int]) -> None:
        self.prepared, self.target, self.fused = prepared, prepared.target, prepared.fused
        self.outside, self.passed = outside, passed
        self.tensors = dict(prepared.tensors)
        self.groups = [Group(self.target.bank_words) for _ in range(self.target.feature_groups)]
        #: Feature maps on chip now, and all that ever were.
        self.chip: dict[str, Rows] = {}
        self.ever: dict[str, Rows] = {}
        self.layers = self._with_thinning()
        self.memory = ExternalMemory(prepared, self.layers, self.tensors)
        self.readers: dict[str, list[str]] = {}
        for layer in self.layers:
            for name in reads(layer):
                self.readers.setdefault(name, []).append(layer.name)

    def run(self) -> Plan:
        plans = tuple(self._layer(layer) for layer in self.layers)
        memory = self.memory
        return Plan(
            self.prepared.graph,
            plans,
            self.fused.written_into,
            memory.known,
            self.ever,
            memory.workspace,
            memory.input_bytes,
            memory.output_bytes,
            self.fused.external,
        )

    # -- who wants what

    def _is_external(self, name: str) -> bool:
        return name in self.fused.external or name in self.outside

    def _demands(self, layers: Iterable[Layer], name: str) -> set[int]:
        return {demand for layer in layers for demand in self.prepared.demands(layer, name)}

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
            readers = [changed.get(other.name, other) for other in self.prepared.layers if name in reads(other)]
            if len(self._demands(readers, name)) < 2:
                continue
            for reader in readers:
                if self._can_thin(reader, name):
                    thin = self._thin(reader, name, out)
                    window = dataclasses.replace(reader.window, stride=(1, 1))
                    changed[reader.name] = dataclasses.replace(reader, source=thin, in_shape=self.tensors[thin], window=window)
            if len(self._demands([changed.get(other.name, other) for other in readers], name)) > 1:
                raise _NoRoom("", name)
        return out

    def _can_thin(self, reader: Layer, name: str) -> bool:
        window = reader.window
        only = window.kernel == (1, 1) and window.padding == (0, 0, 0, 0) and window.stride[0] == 2
        return only and reader.kind == "conv" and reader.source == name and reader.skip != name

    def _thin(self, reader: Layer, name: str, out: list[Layer]) -> str:
        thin = f"{name}/every{reader.window.stride[0]}x{reader.window.stride[1]}"
        check_free(thin, self.prepared.graph.by_name)
        if thin not in self.tensors:
            shape = (*reader.mid_shape[:2], reader.in_shape[2])
            self.tensors[thin] = shape
            window = Window((1, 1), reader.window.stride)
            out.append(Layer(thin, "downsample", (reader.nodes[0],), name, thin, reader.in_shape, shape, shape, window))
        return thin

    def _rows_to_a_bank(self, name: str) -> int | None:
        """How many rows of a new feature map share a bank; None: it goes to external memory."""
        if self._is_external(name):
            return None
        demands = self._demands(self.layers, name) or {1}
        (stride,) = demands if len(demands) == 1 else (0,)
        return stride if stride in (1, 2) else None

    # -- one layer

    def _layer(self, layer: Layer) -> LayerPlan:
        views: dict[str, External] = {}
        if layer.source not in self.chip:
            layer, views["source"] = self.memory.read_by(layer)
        if layer.skip is not None and layer.skip not in self.chip:
            views["skip"] = self.memory.shaped(layer.skip, layer.out_shape)
        cut, fitting = None, None
        passed = self.passed.get(layer.name, 0)
        for cut in cuts(layer, self.prepared, reloads="source" in views):
            needs = [*buffers(layer, self.prepared, views, cut), *self._output_need(layer, cut)]
            found = self._assign(needs, layer)
            if found is not None:
                fitting = cut, found
                passed -= 1
            if found is not None and passed < 0:
                break
        if fitting is not None:
            self.groups = fitting[1].groups
            plan = self._planned(layer, views, fitting[0], fitting[1].rows)
            self._finish(layer, fitting[1].rows)
            return plan
        assert cut is not None
        raise self._no_room(layer, views, cut)

    def _output_need(self, layer: Layer, cut: Cut) -> list[Need]:
        if layer.kind == "copy":
            return []
        stride = self._rows_to_a_bank(layer.output)
        if stride is None:
            return [output_ring(layer, self.target, cut)]
        rows = output_rows(layer, self.target, stride)
        return [] if self._overwrites(layer, rows) else [Need("output", rows)]

    def _overwrites(self, layer: Layer, rows: Rows) -> bool:
        """Whether the sum can take the place of its other operand, which nobody reads later."""
        skip = self.chip.get(layer.skip or "")
        return (
            skip is not None
            and self.readers[layer.skip or ""] == [layer.name]
            and layer.source != layer.skip
            and (skip.stride, skip.pixel, skip.columns, skip.rounds) == (rows.stride, rows.pixel, rows.columns, rows.rounds)
        )

    # -- room on chip

    def _assign(self, needs: list[Need], layer: Layer) -> _Assigned | None:
        """An address for every buffer, None without room. An operand and a result lie in different groups if they can."""
        banks = self.target.pixel_parallel
        fixed = {role: self.chip[name].first_bank // banks for role, name in self._on_chip(layer)}
        roles = [need.role for need in needs]
        choices = sorted(
            itertools.product(range(len(self.groups)), repeat=len(needs)),
            key=lambda choice: _crowding(dict(zip(roles, choice, strict=True)) | fixed),
        )
        for choice in choices:
            if layer.skip is not None and _all_alike(dict(zip(roles, choice, strict=True)) | fixed):
                continue
            groups = [group.copy() for group in self.groups]
            found: dict[str, Rows] = {}
            for need, group in zip(needs, choice, strict=True):
                address = groups[group].take(need.rows.words)
                if address is None:
                    break
                found[need.role] = need.rows.at(address, group * banks)
            else:
                return _Assigned(found, groups)
        return None

    def _on_chip(self, layer: Layer) -> Iterator[tuple[str, str]]:
        if layer.source in self.chip:
            yield "source", layer.source
        if layer.skip is not None and layer.skip in self.chip:
            yield "skip", layer.skip

    def _planned(self, layer: Layer, views: Mapping[str, External], cut: Cut, found: Mapping[str, Rows]) -> LayerPlan:
        def operand(role: str, name: str) -> Operand:
            return Operand(name, found[role], views[role]) if role in views else Operand(name, self.chip[name], None)

        source = operand("source", layer.source)
        skip = None
        if layer.skip is not None:
            same = layer.skip == layer.source and "skip" not in found
            skip = source if same else operand("skip", layer.skip)
        if layer.kind == "copy":
            output = Operand(layer.output, source.rows, self.memory.of(layer.output))
        elif "ring" in found:
            output = Operand(layer.output, found["ring"], self.memory.of(layer.output))
        elif "output" in found:
            output = Operand(layer.output, found["output"], None)
        else:
            output = Operand(layer.output, self.chip[layer.skip or ""], None)
        return LayerPlan(
            layer,
            self.prepared.main(layer),
            self.prepared.post(layer),
            source,
            skip,
            found.get("middle"),
            output,
            cut.tiles,
            cut.blocks,
            self.prepared.augmented(layer),
        )

    def _finish(self, layer: Layer, found: Mapping[str, Rows]) -> None:
        """Give back buffers, and feature maps that nobody reads any more."""
        for role, rows in found.items():
            if role != "output":
                self._give(rows)
        if "output" in found:
            self.chip[layer.output] = self.ever[layer.output] = found["output"]
        elif layer.kind != "copy" and "ring" not in found:  # the sum lies where its operand lay
            self.chip[layer.output] = self.ever[layer.output] = self.chip.pop(layer.skip or "")
        for name in reads(layer):
            self.readers[name].remove(layer.name)
            if not self.readers[name] and name in self.chip:
                self._give(self.chip.pop(name))

    def _give(self, rows: Rows) -> None:
        self.groups[rows.first_bank // self.target.pixel_parallel].give(rows.address, rows.words)

    def _no_room(self, layer: Layer, views: Mapping[str, External], cut: Cut) -> _NoRoom:
        candidates = {name: rows.words for name, rows in self.chip.items()}
        stride = self._rows_to_a_bank(layer.output) if layer.kind != "copy" else None
        if stride is not None:
            candidates[layer.output] = output_rows(layer, self.target, stride).words
        if candidates:
            return _NoRoom("", max(candidates, key=lambda name: (candidates[name], name)))
        words = sum(need.rows.words for need in (*buffers(layer, self.prepared, views, cut), *self._output_need(layer, cut)))
        return _NoRoom(
            f"layer {layer.name!r} needs {words} words of every bank for a column of its feature maps, and {self.target.name} "
            f"has {len(self.groups)} x {self.target.bank_words}: use fewer channels, smaller kernels, or smaller strides",
            None,
        )


def _crowding(roles: Mapping[str, int]) -> int:
    """Weighted pairs of buffers in the same group that one instruction reads and writes."""
    chain = [roles[role] for role in ("source", "middle", "output", "ring") if role in roles]
    apart = sum(4 for a, b in itertools.pairwise(chain) if a == b)
    return apart + sum(2 for role in ("source", "middle") if role in roles and roles.get("skip") == roles[role])


def _all_alike(roles: Mapping[str, int]) -> bool:
    """Whether a sum would have both operands and its result in one group, which no compiled file has."""
    first = roles.get("middle", roles.get("source"))
    skip = roles.get("skip", first)
    return first == skip == roles.get("output", roles.get("ring", skip))
