"""Convolutions and batch-norms that can be trained safely, and fast.

oneDNN's gradient of a 1 x 1 convolution with a stride writes beyond its memory where the input has fewer channels than the
processor's vectors hold and lies with its channels last (as torch 2.13 carries it: heap corruption within a few steps): with
AVX-512 fewer than 16 where several threads share it, with AVX2 fewer than 8 on one thread, too. The same convolution of the
pixels that the stride leaves is another kernel, which is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edgesearch.objectives.training._device import processor_has_tiles
from edgesearch.objectives.training._narrow_norm import narrow_norm
from edgesearch.objectives.training._side_by_side import side_by_side

__all__ = ["BFLOAT16_VERSION", "safe_kernels", "same_every_time"]

#: Raised by one whenever trainings in bfloat16 are computed with other sums, so that results end in other last digits.
BFLOAT16_VERSION = 2  # 1: each image's small maps alone

#: From this many input channels on, the kernel keeps to its memory: where several threads share it, and on one without AVX-512.
_SAFE_CHANNELS, _SAFE_ALONE = 16, 8
_CPU = torch.device("cpu")


def safe_kernels(device: torch.device = _CPU) -> AbstractContextManager[Any]:
    """While it is entered, no convolution of this thread uses the kernel that is not safe, small maps lie side by side, and the
    batch statistics of narrow layers are taken in a way that several threads can share.

    Nothing changes on one thread whose processor has long vectors and no tiles. device: where the layers are; elsewhere than on
    a CPU all kernels are safe.
    """
    if device.type != "cpu":
        return nullcontext()
    has_long_vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    safe = _SAFE_CHANNELS if torch.get_num_threads() > 1 else 0 if has_long_vectors else _SAFE_ALONE
    return _Kernels(safe) if safe or processor_has_tiles() else nullcontext()


@contextmanager
def same_every_time() -> Iterator[None]:
    """While it is entered, the same convolution on the same GPU gives the same bits: no kernel whose sums have no order."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


class _Kernels(TorchFunctionMode):
    """Convolutions of fewer than `safe` channels are computed in the other way, those of small maps side by side, and
    batch-norms of narrow layers several pixels at a time.
    """

    def __init__(self, safe: int) -> None:
        super().__init__()
        self._safe = safe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(self._safe, *args, **(kwargs or {}))
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    safe: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d` with the same arguments and the same result; from `safe` input channels on as torch does it."""
    down, right = _pair(stride)
    if not isinstance(padding, str):
        found = side_by_side(input, weight, bias, (down, right), _pair(padding), _pair(dilation), groups)
        if found is not None:
            return found
    if weight.shape[2:] != (1, 1) or max(down, right) == 1 or weight.shape[1] >= safe or input.device.type != "cpu":
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    above, beside = (0, 0) if isinstance(padding, str) else _pair(padding)  # "same" and "valid" add nothing to a 1 x 1 kernel
    if above or beside:
        input = F.pad(input, (beside, beside, above, above))
    return torch.conv2d(input[..., ::down, ::right], weight, bias, groups=groups)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the same arguments and the same result."""
    found = narrow_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps) if found is None else found


def _pair(value: int | Iterable[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first
