"""Convolutions that several threads can train.

oneDNN's AVX-512 gradient of a 1 x 1 convolution with a stride writes beyond its memory where several threads share it and the
input has fewer than 16 channels (as torch 2.13 carries it: heap corruption within a few steps). The same convolution of the
pixels that the stride leaves is another kernel, which is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["safe_convolutions"]

#: From this many input channels on, the kernel keeps to its memory.
_SAFE_CHANNELS = 16


def safe_convolutions() -> AbstractContextManager[Any]:
    """While it is entered, no convolution of this thread uses the kernel that is not safe. With one thread nothing changes."""
    return _Subsampled() if torch.get_num_threads() > 1 else nullcontext()


class _Subsampled(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d` with the same arguments and the same result."""
    down, right = _pair(stride)
    if weight.shape[2:] != (1, 1) or max(down, right) == 1 or weight.shape[1] >= _SAFE_CHANNELS or input.device.type != "cpu":
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    above, beside = (0, 0) if isinstance(padding, str) else _pair(padding)  # "same" and "valid" add nothing to a 1 x 1 kernel
    if above or beside:
        input = F.pad(input, (beside, beside, above, above))
    return torch.conv2d(input[..., ::down, ::right], weight, bias, groups=groups)


def _pair(value: int | Iterable[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first
