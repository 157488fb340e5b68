"""Rows that stripes need and complete."""

from __future__ import annotations

from edgesearch.board_eval.timing._fusion import Layer


class RowCounter:
    """How many rows of its input a layer newly needs as its output grows."""

    def __init__(self, layer: Layer) -> None:
        self.window = layer.window
        self.height = layer.in_shape[0]
        self.loaded = 0
        #: The first rows of the input that have to be there, of which those that a stride leaves out are not loaded.
        self.reach = 0

    def new_rows(self, bottom: int) -> int:
        """Rows to load before the output has `bottom` rows."""
        window = self.window
        self.reach = min(self.height, (bottom - 1) * window.stride[0] - window.padding[2] + window.rows)
        leaves_out = window.stride[0] >= window.rows
        needed = min(self.height, bottom * window.kernel[0]) if leaves_out else self.reach
        new = max(0, needed - self.loaded)
        self.loaded += new
        return new


def rows_ready(layer: Layer, bottom: int) -> int:
    """Output rows of a fused window that are complete once the convolution has made `bottom` rows."""
    if bottom >= layer.mid_shape[0]:
        return layer.out_shape[0]
    window = layer.post_window
    return max(0, min(layer.out_shape[0], (bottom + window.padding[2] - window.rows) // window.stride[0] + 1))
