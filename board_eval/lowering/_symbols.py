"""Symbolic values of a traced network that answer questions about their sizes and types as tensors do."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from edgesearch.board_eval.lowering._tracer import NetworkTracer

__all__ = ["READING", "Symbol", "shape_of"]

_Number = TypeVar("_Number")
#: What of a tensor is no tensor: attributes, and methods.
_FACTS = frozenset(
    {"shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_sparse", "is_quantized", "requires_grad", "itemsize"}
)
READING = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "is_complex", "is_contiguous"}
)


class Symbol(fx.Proxy):
    """A value whose `+=` is traced as the change in place that it is for a tensor, and so `-=`, `*=`, `/=`; torch.fx takes it
    for a sum.

    Its sizes and its type are what they are for the image that the network is traced for (see Decisions). The number of images
    alone stays a symbol.
    """

    tracer: NetworkTracer

    def __getattr__(self, k: str) -> Any:
        if k in _FACTS:
            return self.tracer.plain(_Attribute(self, k))
        if not hasattr(Tensor, k) and self._is_tensor():
            raise AttributeError(f"'Tensor' object has no attribute {k!r}")
        return _Attribute(self, k)

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._changed(operator.iadd, other, "add")

    def __isub__(self, other: object) -> fx.Proxy:
        return self._changed(operator.isub, other, "sub")

    def __imul__(self, other: object) -> fx.Proxy:
        return self._changed(operator.imul, other, "mul")

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._changed(operator.itruediv, other, "truediv")

    def _changed(self, function: Callable[..., Any], other: object, name: str) -> fx.Proxy:
        changed: fx.Proxy = self.tracer.create_proxy("call_function", function, (self, other), {}, name=name)
        return changed

    def __hash__(self) -> int:
        if not self._is_tensor():
            self._number(hash, "a comparison")
        return id(self)

    def __len__(self) -> int:
        return self._number(len, "the length")

    def __int__(self) -> int:
        return self._number(int, "a whole number")

    def __index__(self) -> int:
        return self.tracer.decisions.made(self.node, operator.index, "a whole number", probed=True)

    def __float__(self) -> float:
        return self._number(float, "a number")

    def __round__(self, digits: int | None = None) -> Any:
        return self._number(lambda value: round(value, digits), "a whole number")

    def __format__(self, spec: str) -> str:
        values = self.tracer.decisions.values(self.node)  # in the message of an error
        return repr(self) if len({*map(repr, values)}) != 1 or self._is_tensor() else format(values[0], spec)

    def _number(self, wanted: Callable[[Any], _Number], what: str) -> _Number:
        return self.tracer.decisions.made(self.node, wanted, what)

    def _is_tensor(self) -> bool:
        values = self.tracer.decisions.values(self.node)
        return not values or isinstance(values[0], Tensor)


class _Attribute(Symbol, fx.proxy.Attribute):
    """An attribute of a value: of a tensor another one, or a method."""

    def __getattr__(self, k: str) -> Any:
        return _Attribute(self, k)


class _Shape(tuple[Any, ...]):
    """Sizes of which the first is the number of images, a symbol."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return shape_of(found) if isinstance(index, slice) else found

    def __add__(self, others: Iterable[Any]) -> Any:
        return shape_of((*self, *others))

    def __radd__(self, others: Iterable[Any]) -> Any:
        return shape_of((*others, *self))

    def numel(self) -> Any:
        """Their product."""
        return math.prod(self)


def shape_of(sizes: Iterable[Any]) -> Any:
    """Sizes as torch gives them, and with a symbol among them as a tuple."""
    known = tuple(sizes)
    return torch.Size(known) if all(type(size) is int for size in known) else _Shape(known)
