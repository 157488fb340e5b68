"""Parts of a tensor's channels, and channels in another order: convolutions of 1 x 1 with weights of zero and one.

The DPU reads and writes channels where they lie; taking some of them is a layer's work. A part of a part, or one of what was
put side by side, is taken from where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgesearch.board_eval.graph import Concat, Conv
from edgesearch.board_eval.lowering._layers import Layers
from edgesearch.board_eval.lowering._reasons import PART
from edgesearch.board_eval.lowering._values import Folded, Unsupported, argument, name_of

__all__ = ["chunk", "fold", "joined", "narrow", "part", "shuffle", "slice_of", "split", "swap", "tensor_split", "unfold"]

#: Where torch has the channels of an image, (N, C, H, W).
_CHANNELS = (1, -3)


def chunk(low: Layers, at: fx.Node) -> None:
    """`torch.chunk`: so many parts, the last one smaller."""
    _divide(low, at, argument(at, 2, "dim", 0), argument(at, 1, "chunks", None), torch.chunk)


def split(low: Layers, at: fx.Node) -> None:
    """`torch.split`: parts of so many channels, or of these numbers of them."""
    name = "split_size" if at.op == "call_method" else "split_size_or_sections"
    _divide(low, at, argument(at, 2, "dim", 0), argument(at, 1, name, None), torch.split)


def tensor_split(low: Layers, at: fx.Node) -> None:
    """`torch.tensor_split`: so many parts, nearly alike, or parts that begin at these channels."""
    given = argument(at, 1, "indices_or_sections", at.kwargs.get("sections", at.kwargs.get("indices")))
    _divide(low, at, argument(at, 2, "dim", 0), given, torch.tensor_split)


def narrow(low: Layers, at: fx.Node) -> None:
    """`torch.narrow`: so many channels from one on."""
    dim, start, length = (argument(at, place, name, None) for place, name in ((1, "dim"), (2, "start"), (3, "length")))
    channels = low.image(low.value(at.args[0]))[2]
    whole = isinstance(start, Integral) and isinstance(length, Integral)
    if dim not in _CHANNELS or not whole or not -channels <= start < channels or length < 1:
        raise Unsupported(PART)
    first = int(start) % channels
    _take(low, at, at.args[0], range(channels)[first : first + int(length)])


def part(low: Layers, at: fx.Node) -> bool:
    """One of the parts that an operation divided a tensor into; whether `at` takes such."""
    parts: Any = low.divided.get(at.args[0])  # type: ignore[arg-type]
    if parts is None:
        return False
    if isinstance(at.args[1], slice):
        low.divided[at] = parts[at.args[1]]
        return True
    if not isinstance(at.args[1], int) or not -len(parts) <= at.args[1] < len(parts):
        raise Unsupported(f"part {at.args[1]!r} of {len(parts)}")
    operand, channels = parts[at.args[1]]
    _take(low, at, operand, channels)
    return True


def joined(low: Layers, at: fx.Node, parts: fx.Node, dim: Any) -> None:
    """All parts of a tensor side by side."""
    divided = low.divided[parts]
    if dim not in _CHANNELS or not divided:
        raise Unsupported("a concatenation of parts along another dimension than that of channels")
    _take(low, at, divided[0][0], [channel for _, channels in divided for channel in channels])
    low.copied(at)


def slice_of(low: Layers, at: fx.Node, given: Any) -> bool:
    """Channels by a slice, of all rows and columns; whether `at` takes such."""
    shape = low.shape(low.value(at.args[0]))
    parts = low.parts_by_axis(at, given)
    if len(shape) != 3 or parts is None or not isinstance(parts[1], slice):
        return False
    if any(parts[axis] != slice(None) for axis in (0, 2, 3)):
        return False
    _take(low, at, at.args[0], range(shape[2])[parts[1]])
    return True


def shuffle(low: Layers, at: fx.Node, module: nn.ChannelShuffle | None = None) -> None:
    """`torch.channel_shuffle`: the first channel of each group, then the second of each."""
    groups: Any = argument(at, 1, "groups", None) if module is None else module.groups
    channels = low.image(low.value(at.args[0]))[2]
    if not isinstance(groups, int) or groups < 1 or channels % groups:
        raise Unsupported(f"{channels} channels in {groups!r} groups, which torch refuses")
    _take(low, at, at.args[0], np.arange(channels).reshape(groups, -1).T.ravel().tolist())
    low.copied(at)


# -- channels as two dimensions, which change places


def fold(low: Layers, at: fx.Node, sizes: Sequence[Any]) -> bool:
    """An image whose channels become two dimensions, as for a shuffle; whether `at` makes such."""
    if len(sizes) != 5 or not all(isinstance(size, int) for size in sizes) or sizes[0] not in (-1, 1):
        return False
    height, width, channels = low.image(low.value(at.args[0]))
    outer, inner = sizes[1:3]
    if -1 in (outer, inner) and max(outer, inner) > 0 and channels % max(outer, inner) == 0:
        outer, inner = (channels // inner, inner) if outer == -1 else (outer, channels // outer)
    if outer * inner != channels or (*sizes[3:],) != (height, width):
        return False
    low.folded[at] = Folded(at.args[0], outer, inner)
    return True


def swap(low: Layers, at: fx.Node, axes: Sequence[Any]) -> None:
    """The two dimensions of channels, one for the other."""
    known = low.folded.get(at.args[0])  # type: ignore[arg-type]
    if known is None or list(axes) != [0, 2, 1, 3, 4]:
        low.value(at.args[0])
        raise Unsupported(low.reason(at, None))
    low.folded[at] = Folded(known.operand, known.outer, known.inner, swapped=not known.swapped)


def unfold(low: Layers, at: fx.Node, sizes: Sequence[Any] | None) -> None:
    """The image again, its channels in the order that they have by then; `sizes` None: of whatever size."""
    known = low.folded[at.args[0]]  # type: ignore[index]
    height, width, channels = low.image(low.value(known.operand))
    sizes = (-1, channels, height, width) if sizes is None else sizes
    if len(sizes) != 4 or [*sizes[2:]] != [height, width] or sizes[1] not in (channels, -1) or sizes[0] not in (-1, 1):
        raise Unsupported("a shape other than that of the image whose channels were taken apart")
    order = np.arange(channels).reshape(known.outer, known.inner)
    _take(low, at, known.operand, (order.T if known.swapped else order).ravel().tolist())
    low.copied(at)


# -- what they all are


def _divide(low: Layers, at: fx.Node, dim: Any, given: Any, divided: Any) -> None:
    shape = low.shape(low.value(at.args[0]))
    if len(shape) != 3 or dim not in _CHANNELS:
        raise Unsupported(PART)
    try:
        parts = divided(torch.arange(shape[2]), given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise Unsupported(f"torch refuses it: {str(error).partition(chr(10))[0]}") from error
    low.divided[at] = [(at.args[0], each.tolist()) for each in parts]


def _take(low: Layers, at: fx.Node, operand: Any, channels: Sequence[int]) -> None:
    """The value of `at`: these channels of an operand."""
    source, taken = low.value(operand), list(channels)
    if not taken:
        raise Unsupported("a part without channels")
    while (found := _before(low, source, taken)) is not None:
        source, taken = found
    low.share(at, operand)
    height, width, count = low.image(source)
    if taken == list(range(count)):
        low.values[at] = source
        return
    weight = np.eye(count, dtype=np.float32)[taken][:, None, None]
    shape = (height, width, len(taken))
    what: Any = {"kernel": (1, 1), "weight": weight, "has_bias": False, "picks": tuple(taken)}
    low.weighted(at, Conv(name=name_of(at), inputs=(source,), shape=shape, **what))
    low.with_constants.add(low.values[at])
    low.picked[low.values[at]] = (low.nodes[low.values[at]], taken)


def _before(low: Layers, source: str, channels: Sequence[int]) -> tuple[str, list[int]] | None:
    """The same channels in the node that `source` has them from, where it does nothing to them."""
    node = low.nodes[source]
    made, order = low.picked.get(source, (None, []))
    if made is node:  # nothing was fused with it
        return node.inputs[0], [order[channel] for channel in channels]
    if not isinstance(node, Concat) or node.axis != 2:
        return None
    start = 0
    for name in node.inputs:
        end = start + low.shape(name)[2]
        if start <= min(channels) and max(channels) < end:
            return name, [channel - start for channel in channels]
        start = end
    return None
