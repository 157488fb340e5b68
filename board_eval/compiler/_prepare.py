"""Layers in the form in which they are compiled: fused, split where they cannot be, with strides that mean something."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from edgesearch.board_eval.compiler._plan import augmented, is_convolution, slides, steady
from edgesearch.board_eval.compiler._rows import ceil_div
from edgesearch.board_eval.compiler._sequence import earlier, shortest_first
from edgesearch.board_eval.graph import Graph, Node, Pool
from edgesearch.board_eval.targets import Target
from edgesearch.board_eval.timing import Fused, Layer, Window, fuse, read_words

__all__ = ["Prepared", "is_thinning"]


class Prepared:
    """Layers in the form the compiler writes them, and who reads what."""

    def __init__(self, graph: Graph, target: Target, moved: Iterable[str] = ()) -> None:
        fused: Fused = fuse(graph, serial_scales=False)
        self.fused = fused
        self.graph = fused.graph
        self.target = target
        self.tensors = dict(fused.tensors)
        parts = [part for layer in fused.layers for part in self._prepared(layer)]
        self.layers = earlier(shortest_first(parts, fused.written_into), moved, fused.written_into)

    def _prepared(self, layer: Layer) -> Iterator[Layer]:
        """The layer, in two where the window behind its convolution cannot be fused."""
        window = steady(layer.window, layer.mid_shape, self.target)
        layer = dataclasses.replace(layer, window=window)
        if layer.post not in ("depthwise", "pool"):
            yield layer
            return
        behind = steady(layer.post_window, layer.out_shape, self.target)
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

    def augmented(self, layer: Layer) -> bool:
        """Whether the columns of the kernel are folded into the input channels while the image is loaded."""
        return augmented(layer, self.fused.image, self.target)

    def steps(self, layer: Layer) -> int:
        """Words of a convolution's weights in the bank of one output channel: of that with the most."""
        kernel_h, kernel_w = layer.window.kernel
        if self.augmented(layer):
            return kernel_h * ceil_div(kernel_w * layer.in_shape[2], self.target.input_parallel)
        groups = ceil_div(layer.mid_shape[2], self.target.output_parallel)
        return kernel_h * kernel_w * max(len(read_words(layer, group, self.target)) for group in range(groups))

    def demands(self, layer: Layer, tensor: str) -> set[int]:
        """How many rows to a bank the layer wants of a feature map on chip that it reads; empty: any number will do."""
        if layer.kind == "copy":
            return set()
        found = {1} if layer.skip == tensor else set()
        if layer.source == tensor:
            main = self.main(layer)
            windowed = is_convolution(main) or (slides(main) and not is_thinning(main))
            # a thinned copy is made row by row, whatever its reader's stride
            found.add(layer.window.stride[0] if windowed and layer.kind != "downsample" else 1)
        return found


def is_thinning(node: Node) -> bool:
    """Whether the node only leaves out rows and columns."""
    return isinstance(node, Pool) and node.kind == "max" and node.kernel == (1, 1) and node.padding == (0, 0, 0, 0)
