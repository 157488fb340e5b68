"""AMD's `pad` operation: zeros around an image, which the DPU takes as the padding of the layer behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from edgesearch.board_eval.graph import Conv, Depthwise, Node, Pool
from edgesearch.board_eval.xmodel._ops import Op


def read_pad(op: Op, source: Node) -> Pool:
    """The operation as a pool of one pixel with padding; `fold_padding` makes it part of the layers behind it where it can.

    Raises XmodelError for padding by anything but zeros, and along other axes than height and width.
    """
    mode = op.text("mode", "CONSTANT")
    if mode != "CONSTANT" or any(value != 0 for value in op.numbers("constant_values")):
        how = "by other values than zero" if mode == "CONSTANT" else f"in mode {mode[:20]!r}"
        raise op.error(f"pads {how}, which the DPU does not do; pad with zeros")
    rank = len(op.shape)
    paddings = op.integers("paddings", 2 * rank)  # before and after, axis by axis
    if rank != 4 or len(source.shape) != 3 or any((*paddings[:2], *paddings[6:])):
        raise op.error("pads along other axes than the height and width of an image")
    top, bottom, left, right = paddings[2:6]
    height, width, channels = source.shape
    if op.shape[1:] != (height + top + bottom, width + left + right, channels):
        raise op.error(f"makes {list(op.shape[1:])} of {list(source.shape)}, which its paddings do not")
    return Pool(
        name=op.name,
        inputs=(source.name,),
        shape=op.shape[1:],
        kind="avg",
        kernel=(1, 1),
        stride=(1, 1),
        padding=(left, right, top, bottom),
        op_names=(f"{op.name}_i0", f"{op.name}_i1", op.name),
    )


def fold_padding(nodes: dict[str, Node], names: Iterable[str]) -> None:
    """Move the padding of the nodes `names`, made by `read_pad`, into the layers that read them.

    That is exact where no padded value is rounded anew and every reader pads with zeros as far as the DPU lets it. Where it is
    not, the node stays.
    """
    for name in names:
        pad = nodes[name]
        assert isinstance(pad, Pool)
        source = nodes[pad.inputs[0]]
        readers = [node for node in nodes.values() if name in node.inputs]
        if not readers or source.fix is None or pad.fix not in (None, source.fix):
            continue
        padded = [_padded(node, pad.padding) for node in readers]
        if any(node is None for node in padded):
            continue
        for node in padded:
            assert node is not None
            nodes[node.name] = dataclasses.replace(node, inputs=pad.inputs)
        del nodes[name]


def _padded(node: Node, more: tuple[int, int, int, int]) -> Node | None:
    """The layer with so much padding more; None where it does not pad with zeros, or not so far."""
    if isinstance(node, Conv | Depthwise) or (isinstance(node, Pool) and node.kind == "avg" and not node.ceil_mode):
        left, right, top, bottom = (a + b for a, b in zip(node.padding, more, strict=True))
        if isinstance(node, Conv):
            vertical, horizontal = ((k - 1) * d for k, d in zip(node.kernel, node.dilation, strict=True))
            if max(left, right) > horizontal or max(top, bottom) > vertical:
                return None
        return dataclasses.replace(node, padding=(left, right, top, bottom))
    return None
