"""The order of layers: any in which each comes behind those that make what it reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from edgesearch.board_eval.timing import Layer

__all__ = ["earlier", "independent", "reads", "shortest_first"]


def reads(layer: Layer) -> tuple[str, ...]:
    """The feature maps that a layer reads."""
    return tuple(dict.fromkeys((layer.source,) if layer.skip is None else (layer.source, layer.skip)))


def independent(first: Layer, second: Layer, written_into: Mapping[str, str]) -> bool:
    """Whether `second` reads nothing that `first` makes: neither its result nor a concat that this is a part of."""
    made: str | None = first.output
    while made is not None:
        if made in reads(second):
            return False
        made = written_into.get(made)
    return True


def shortest_first(layers: Sequence[Layer], written_into: Mapping[str, str]) -> list[Layer]:
    """Of convolutions that read the same feature map one after the other, those with less work come first.

    While the longest is computed, what the others made is saved, and what follows is loaded again.
    """
    out = list(layers)
    changed = True
    while changed:
        changed = False
        for at in range(1, len(out)):
            first, second = out[at - 1], out[at]
            branches = first.kind == second.kind == "conv" and first.source == second.source
            if branches and independent(first, second, written_into) and _work(second) < _work(first):
                out[at - 1 : at + 1] = [second, first]
                changed = True
    return out


def earlier(layers: Sequence[Layer], names: Iterable[str], written_into: Mapping[str, str]) -> list[Layer]:
    """The layers with each of `names`, in turn, before the one that it followed, where it does not read that one's result."""
    out = list(layers)
    for name in names:
        at = next((at for at, layer in enumerate(out) if layer.name == name), 0)
        if at > 0 and independent(out[at - 1], out[at], written_into):
            out[at - 1 : at + 1] = [out[at], out[at - 1]]
    return out


def _work(layer: Layer) -> int:
    return math.prod(layer.mid_shape) * math.prod(layer.window.kernel) * layer.in_shape[2]
