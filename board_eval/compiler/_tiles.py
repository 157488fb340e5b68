"""Columns a layer is cut into when its rows are too long for their buffers."""

from __future__ import annotations

import itertools

from edgesearch.board_eval.compiler._plan import Tile
from edgesearch.board_eval.timing import Layer, Window

__all__ = ["tiles_of"]


def tiles_of(layer: Layer, pieces: int, *, both_pads: bool = True) -> tuple[Tile, ...]:
    """The layer in `pieces` pieces of columns, fewer where it has fewer columns.

    Without `both_pads` a layer that is padded on both sides gets two pieces at least: no LOAD of a compiled file masks both.
    """
    width = layer.out_shape[1]
    if not both_pads and layer.window.padding[0] and _reaches_right(layer):
        pieces = max(pieces, 2)
    pieces = max(1, min(pieces, width))
    bounds = [width * i // pieces for i in range(pieces + 1)]
    return tuple(_tile(layer, range(a, b)) for a, b in itertools.pairwise(bounds))


def _tile(layer: Layer, out: range) -> Tile:
    mid = out
    if layer.post in ("depthwise", "pool"):
        mid = _needed(layer.post_window, out, layer.mid_shape[1])
    return Tile(out, mid, _needed(layer.window, mid, layer.in_shape[1]))


def _needed(window: Window, out: range, width: int) -> range:
    """The columns, of `width`, that the columns `out` of a window's result are made of."""
    left = window.padding[0]
    start = out.start * window.stride[1] - left
    stop = (out.stop - 1) * window.stride[1] - left + (window.kernel[1] - 1) * window.dilation[1] + 1
    start, stop = max(0, start), min(width, stop)
    return range(start, stop) if start < stop else range(min(start, width - 1), min(start, width - 1) + 1)


def _reaches_right(layer: Layer) -> bool:
    window = layer.window
    return (layer.mid_shape[1] - 1) * window.stride[1] - window.padding[0] + window.kernel[1] > layer.in_shape[1]
