"""Numbers, buffers and parameters that a network adds to its values or multiplies them with: a factor and a shift per channel.

They are lowered as a batch-norm is: folded into the layer in front of them, or a layer of 1 x 1 of their own. (pytorch_nndct
has an operation for each, with a position of its own; here there is none.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from edgesearch.board_eval.graph import Array, Shape
from edgesearch.board_eval.lowering._layers import Layers
from edgesearch.board_eval.lowering._values import CONVERTING, Unsupported

__all__ = ["lowers_constant", "read_constant"]

#: Functions, and methods by their names, of two operands, of which one may be a constant; and the same in place.
_PLAIN = {
    "add": (operator.add, torch.add, "add"),
    "mul": (operator.mul, torch.mul, torch.multiply, "mul", "multiply"),
    "div": (operator.truediv, torch.div, torch.divide, "div", "divide"),
    "sub": (operator.sub, torch.sub, torch.subtract, "sub", "subtract"),
}
_IN_PLACE = {
    "add": (operator.iadd, "add_"),
    "mul": (operator.imul, "mul_"),
    "div": (operator.itruediv, "div_"),
    "sub": (operator.isub, "sub_"),
}
#: What each of them does, and whether it does so in place.
_COMBINING: dict[Any, tuple[str, bool]] = {
    target: (kind, table is _IN_PLACE) for table in (_PLAIN, _IN_PLACE) for kind, targets in table.items() for target in targets
}
#: In-place operators of Python, whose result takes the name of what they change.
_AUGMENTED = (operator.iadd, operator.imul, operator.itruediv, operator.isub)


def read_constant(low: Layers, at: fx.Node, attribute: Callable[[str], Any]) -> bool:
    """Keep what an operation computes of constants alone, such as `self.scale.view(1, -1, 1, 1)`; whether it does."""
    if at.op == "get_attr":
        found = attribute(str(at.target))
        if isinstance(found, Tensor):
            low.constants[at] = found.detach()
        return isinstance(found, Tensor)
    inputs = at.all_input_nodes
    if at.op == "call_method" and at.target in CONVERTING and inputs[0] in low.constants:
        low.constants[at] = low.constants[inputs[0]]
        return True
    if at.op not in ("call_function", "call_method") or not inputs or any(node not in low.constants for node in inputs):
        return False
    if at.target in _AUGMENTED or str(getattr(at.target, "__name__", at.target)).endswith("_"):
        return False  # it would change the network's own tensor
    arguments: Any = fx.map_arg((at.args, at.kwargs), low.constants.__getitem__)
    args, kwargs = arguments[0], dict(arguments[1])
    with torch.no_grad():
        found = at.target(*args, **kwargs) if callable(at.target) else getattr(args[0], str(at.target))(*args[1:], **kwargs)
    if isinstance(found, Tensor):
        low.constants[at] = found
    return isinstance(found, Tensor)


def lowers_constant(low: Layers, at: fx.Node) -> bool:
    """Lower an operation of which one operand is a constant, that changes something; whether it is one.

    Raises Unsupported for constants that are not the same for all pixels of a channel, and divisions by what an image decides.
    """
    kind, inplace = _COMBINING.get(at.target, ("", False))
    known = [_constant(low, operand) for operand in at.args[:2]]
    if not kind or not at.kwargs.items() <= {("alpha", 1)} or len(known) != 2 or (known[0] is None) == (known[1] is None):
        return False
    first = known[0] is None
    operand, constant = (at.args[0], known[1]) if first else (at.args[1], known[0])
    if kind in ("mul", "add") or first:
        number = at.args[1] if first else at.args[0]
        if isinstance(number, int | float) and number == (1 if kind in ("mul", "div") else 0):
            return False
    if (inplace or kind == "div") and not first:
        raise Unsupported(low.reason(at, None))
    shape = low.shape(low.value(operand))
    assert constant is not None
    values = _per_channel(constant, shape)
    one, none = torch.ones_like(values), torch.zeros_like(values)
    scale, shift = {
        "add": (one, values),
        "mul": (values, none),
        "div": (1 / values, none),
        "sub": (one, -values) if first else (-one, values),
    }[kind]
    if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        raise Unsupported("a constant that is not finite, or a division by zero")
    low.affine(at, operand, _array(scale), _array(shift), inplace=inplace, unread=at.target not in _AUGMENTED)
    return True


def _constant(low: Layers, operand: Any) -> Tensor | None:
    if isinstance(operand, fx.Node):
        return low.constants.get(operand)
    return torch.tensor(operand) if isinstance(operand, int | float) and not isinstance(operand, bool) else None


def _per_channel(constant: Tensor, shape: Shape) -> Tensor:
    """(channels,) float32: the constant beside a value of `shape`, (H, W, C) or (C,); torch's are (N, C, H, W) and (N, C)."""
    rank, channels = len(shape) + 1, shape[-1]
    sizes = (*[1] * (rank - constant.ndim), *constant.shape)
    if len(sizes) != rank or sizes[1] not in (1, channels) or any(size != 1 for size in (sizes[0], *sizes[2:])):
        raise Unsupported(
            f"a constant of shape {tuple(constant.shape)} beside a value of {channels} channels; this tool has one number for "
            f"each channel, of shape {(1, channels, *[1] * (rank - 2))}, or one for all"
        )
    if constant.is_complex():
        raise Unsupported("a constant of complex numbers; the DPU has none")
    return constant.cpu().float().reshape(-1).expand(channels)


def _array(values: Tensor) -> Array:
    found: Array = values.contiguous().numpy().copy()
    return found
