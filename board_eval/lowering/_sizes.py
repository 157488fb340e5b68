"""Sizes of tensors that a traced torch model reads, and numbers that it computes of them."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from edgesearch.board_eval.lowering._values import BlockedByEarlierProblem, Unsupported, Values, reads_shape

__all__ = ["Sizes"]


class _Batch(int):
    """The number of images, which is not known: torch's own -1, of which nothing is computed."""


_ARITHMETIC = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg}
    | {operator.iadd, operator.isub, operator.imul, operator.itruediv}
)


class Sizes:
    """Gives the users of a size the number itself, operation by operation."""

    def __init__(self, values: Values) -> None:
        self._values = values
        #: Operations whose numbers are not known: they read the shape of what was refused.
        self._unknown: set[fx.Node] = set()

    def read(self, node: fx.Node) -> bool:
        """Whether the operation reads a shape, or computes a number of sizes; its users are given what comes out."""
        value: Any
        if self._is_unknown(node):
            self._unknown.add(node)
            raise BlockedByEarlierProblem
        if reads_shape(node):
            value = self._of_tensor(node)
        elif node.target is operator.getitem and isinstance(node.args[0], tuple):
            value = _item(node.args[0], node.args[1])
        elif node.target in _ARITHMETIC and all(isinstance(operand, int | float) for operand in node.args):
            value = _computed(node)
        else:
            return False
        for user in list(node.users):
            user.args = fx.map_arg(user.args, lambda operand: value if operand is node else operand)
            user.kwargs = fx.map_arg(user.kwargs, lambda operand: value if operand is node else operand)
        return True

    def check_known(self, node: fx.Node) -> None:
        """Raise BlockedByEarlierProblem where an argument is a size that is not known."""
        if not self._unknown.isdisjoint(node.all_input_nodes):
            raise BlockedByEarlierProblem

    def _is_unknown(self, node: fx.Node) -> bool:
        if reads_shape(node):
            return node.args[0] not in self._values.values and self._values.half(node.args[0]) is None
        computes = node.target is operator.getitem or node.target in _ARITHMETIC
        return computes and not self._unknown.isdisjoint(node.all_input_nodes)

    def _of_tensor(self, node: fx.Node) -> Any:
        half = self._values.half(node.args[0])
        shape = self._values.shape(self._values.value(node.args[0]) if half is None else half.source)
        sides = {2 + place: side for place, side in enumerate(shape[:-1])}
        if half is not None:
            sides[half.axis] = 1
            if not half.kept:
                del sides[half.axis]
        sizes = (_Batch(-1), shape[-1], *sides.values())  # (H, W, C) -> (N, C, H, W), (C,) -> (N, C)
        if node.target == "dim":
            return len(sizes)
        return sizes if len(node.args) == 1 or node.args[1] == "shape" else _item(sizes, node.args[1])


def _item(sizes: tuple[Any, ...], index: Any) -> Any:
    if isinstance(index, slice):
        return sizes[index]
    if not isinstance(index, int):
        raise Unsupported(f"a size indexed with {index!r}")
    if not -len(sizes) <= index < len(sizes):
        raise Unsupported(f"size {index} of a tensor that has {len(sizes)} sizes")
    return sizes[index]


def _computed(node: fx.Node) -> Any:
    if any(isinstance(operand, _Batch) for operand in node.args):
        raise Unsupported("a number computed of the batch's size, which is not known; write -1 where a tensor is reshaped")
    try:
        return node.target(*node.args)  # type: ignore[operator]
    except ZeroDivisionError as error:
        raise Unsupported("a size divided by 0") from error
