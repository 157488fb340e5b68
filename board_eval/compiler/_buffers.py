"""The buffers that a layer needs on chip, for each way to cut it into columns and blocks of channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgesearch.board_eval.compiler._plan import External, Tile, slides
from edgesearch.board_eval.compiler._prepare import Prepared
from edgesearch.board_eval.compiler._rows import Rows, ceil_div
from edgesearch.board_eval.compiler._tiles import tiles_of
from edgesearch.board_eval.graph import Depthwise
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Layer

__all__ = ["Cut", "Need", "buffers", "cuts", "output_ring", "output_rows"]


@dataclass(frozen=True)
class Need:
    """A buffer of a layer: rows without an address."""

    role: str
    rows: Rows


@dataclass(frozen=True)
class Cut:
    """One way to do a layer: tiles of columns, blocks of channels, and whether rings hold the rows of one stripe more."""

    tiles: tuple[Tile, ...]
    blocks: tuple[range, ...]
    roomy: bool


def cuts(layer: Layer, prepared: Prepared, *, reloads: bool) -> Iterator[Cut]:
    """Ways to do a layer, the least cut first. Where rows are loaded (`reloads`), columns are cut before channels."""
    groups = ceil_div(layer.out_shape[2], prepared.target.output_parallel)
    most = _groups_at_once(layer, prepared)
    if not reloads and groups > most:  # half of the weights are loaded while the other half is used
        most = max(1, most // 2)
    ways = sorted(
        itertools.product(_pieces(layer.out_shape[1]), _pieces(groups)),
        key=lambda way: (way[0] * way[1], way[1] if reloads else way[0]),
    )
    seen = set()
    for columns, blocks in ways:
        block = ceil_div(groups, max(blocks, ceil_div(groups, most)))
        if (columns, block) in seen:
            continue
        seen.add((columns, block))
        tiles = tiles_of(layer, columns, both_pads=not prepared.augmented(layer))
        ranges = tuple(range(first, min(first + block, groups)) for first in range(0, groups, block))
        yield Cut(tiles, ranges, True)
        yield Cut(tiles, ranges, False)


def buffers(layer: Layer, prepared: Prepared, views: Mapping[str, External], cut: Cut) -> list[Need]:
    """What a layer needs beside its output, if that stays on chip: rings of rows that come from external memory, and of those
    between a convolution and what is fused behind it. `views`: operand -> where it lies, for those in external memory.
    """
    target = prepared.target
    parallel, alu = target.pixel_parallel, target.alu_rows
    block, spare = max(map(len, cut.blocks)), 1 if cut.roomy else 0
    mid = max(len(tile.mid) for tile in cut.tiles)
    needs: list[Need] = []
    if "source" in views:
        convolves = layer.kind == "conv"
        stride = layer.window.stride[0]
        pixel = ceil_div(layer.in_shape[2], target.input_parallel) if convolves else block
        columns = max(len(tile.read) for tile in cut.tiles)
        if prepared.augmented(layer):
            pixel, columns = ceil_div(layer.window.kernel[1] * layer.in_shape[2], target.input_parallel), mid
        step = alu if slides(prepared.main(layer)) and layer.kind != "copy" else parallel
        rows = (step - 1 + spare * step) * stride + layer.window.kernel[0]
        needs.append(Need("source", ring(rows, layer.in_shape[0], stride, columns, pixel, target)))
    # a convolution's rows lie otherwise than those of the sum behind it, even of the same feature map
    if "skip" in views and (layer.kind == "conv" or layer.skip != layer.source):
        columns = max(len(tile.out) for tile in cut.tiles)
        needs.append(Need("skip", ring((1 + spare) * parallel, layer.out_shape[0], 1, columns, block, target)))
    if layer.post != "none":
        stride = layer.post_window.stride[0] if layer.post != "add" else 1
        window = (alu - 1) * stride + layer.post_window.kernel[0] if layer.post != "add" else 0
        needs.append(Need("middle", ring(window + (1 + spare) * parallel, layer.mid_shape[0], stride, mid, block, target)))
    return needs


def output_ring(layer: Layer, target: Target, cut: Cut) -> Need:
    """The ring of rows of a result that goes to external memory."""
    columns, block = max(len(tile.out) for tile in cut.tiles), max(map(len, cut.blocks))
    rows = (2 if cut.roomy else 1) * target.pixel_parallel
    return Need("ring", ring(rows, layer.out_shape[0], 1, columns, block, target))


def output_rows(layer: Layer, target: Target, stride: int) -> Rows:
    """All rows of a result that stays on chip, `stride` to a bank."""
    height, width, channels = layer.out_shape
    return ring(height, height, stride, width, ceil_div(channels, target.output_parallel), target)


def ring(rows: int, height: int, stride: int, columns: int, pixel: int, target: Target) -> Rows:
    """Room for `rows` rows at a time, in whole rounds of the banks; for all rows where there are no more."""
    banks = target.pixel_parallel
    rounds = min(ceil_div(rows, banks * stride), ceil_div(height, banks * stride))
    return Rows(0, banks, target.bank_words, 0, pixel, columns, stride, rounds)


def _groups_at_once(layer: Layer, prepared: Prepared) -> int:
    """Words of a pixel whose weights fit into their banks."""
    depth, most = prepared.target.bank_words, prepared.target.limits.channel_groups
    if layer.kind == "conv":
        most = min(most, depth // prepared.steps(layer))
    for node, window in ((prepared.main(layer), layer.window), (prepared.post(layer), layer.post_window)):
        if isinstance(node, Depthwise) and layer.kind not in ("copy", "downsample"):
            most = min(most, depth // (window.kernel[0] * window.kernel[1]))
    return max(1, most)


def _pieces(count: int) -> list[int]:
    """Numbers of pieces worth trying: all small ones, then ever larger steps, up to single ones."""
    out, pieces = [], 1
    while pieces < count:
        out.append(pieces)
        pieces = max(pieces + 1, pieces * 5 // 4)
    return [*out, count]
