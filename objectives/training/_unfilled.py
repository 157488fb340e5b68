"""Convolutions that are not computed: their results have the right shapes and layouts, and zeros, or nothing, in them.

Who asks what a step allocates, and not what it computes, needs no more. Kernels of convolutions are most of such a step's time,
and oneDNN keeps what it compiled for each shape; pages that nobody writes take no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["unfilled"]

_Result = Tensor | tuple[Tensor | None, ...]


def unfilled(func: Any, args: Sequence[Any]) -> _Result | None:
    """What an operation of torch returns, unfilled; None for one that is to be computed: all but convolutions of images."""
    stand_in = _STAND_INS.get(func)
    if stand_in is None or args[_INPUT[func]].dim() != 4:
        return None
    return stand_in(*args)


def _forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    sides = []
    for axis, (size, kernel) in enumerate(zip(input.shape[2:], weight.shape[2:], strict=True)):
        step, pad, reach = _at(stride, axis), _at(padding, axis), _at(dilation, axis) * (kernel - 1)
        if transposed:
            sides.append((size - 1) * step - 2 * pad + reach + _at(output_padding, axis) + 1)
        else:
            sides.append((size + 2 * pad - reach - 1) // step + 1)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    shape, layout = (input.shape[0], channels, *sides), _layout(input, weight)
    # Zeros, since the network goes on from here, and may look at its values.
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout).zero_()


def _backward(gradient: Tensor, input: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor | None, ...]:
    layout, wanted = _layout(input, weight), settings[-1]
    bias = weight.new_empty(gradient.shape[1])
    results = torch.empty_like(input, memory_format=layout), torch.empty_like(weight, memory_format=layout), bias
    return tuple(result if is_wanted else None for result, is_wanted in zip(results, wanted, strict=True))


def _layout(input: Tensor, weight: Tensor) -> torch.memory_format:
    """As torch's kernels choose it: by the order of the strides, whether or not the tensors have gaps."""
    return torch.channels_last if _has_channels_last(input) or _has_channels_last(weight) else torch.contiguous_format


def _has_channels_last(tensor: Tensor) -> bool:
    """Whether each step along a column, a row and an image is beyond what the axes before it span, channels the first."""
    sizes, strides = tensor.shape, tensor.stride()
    span = 1
    for axis in (1, 3, 2, 0):
        if strides[axis] < span or (axis == 0 and span == strides[1]):  # the latter: of one value an image, nobody can tell
            return False
        span = strides[axis] * sizes[axis]
    return True


def _at(values: Sequence[int], axis: int) -> int:
    return values[axis if len(values) > 1 else 0]


_aten = torch.ops.aten
_STAND_INS: dict[Any, Callable[..., _Result]] = {
    _aten.convolution.default: _forward,
    _aten.convolution_backward.default: _backward,
}
#: Where each operation's images are among its arguments.
_INPUT = {_aten.convolution.default: 0, _aten.convolution_backward.default: 1}
