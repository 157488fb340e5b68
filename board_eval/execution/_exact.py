"""Convolutions of integers in floating point that are exact because nothing but sums of products is computed.

Algorithms that trade multiplications for sums of transformed values (Winograd, FFT) and reduced precisions (TF32, bfloat16)
would round; here they are kept out. On a GPU a convolution is one matrix product in full float32 or float64: every product and
partial sum is an integer times one power of two below the type's bound (`_accumulator` proves it from the weights), so no
order of summation and no fused multiply-add can round. Depthwise ones take torch's own kernel, which only sums.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from edgesearch.board_eval.graph import Conv, Depthwise, Linear

#: On x86 torch asks oneDNN for direct convolutions. Elsewhere its back ends may choose Winograd.
_DIRECT_ONEDNN = platform.machine().lower() in ("x86_64", "amd64")


@contextmanager
def exact_arithmetic(device: str) -> Iterator[None]:
    """Full float32 products and direct sums on a type of device ("cpu", "cuda"), whatever the process has allowed elsewhere."""
    onednn: Any = torch.backends.mkldnn  # its members are made at run time
    convolution, matmul = onednn.conv, onednn.matmul
    before = convolution.fp32_precision, matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    try:
        convolution.fp32_precision = matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
        with torch.backends.nnpack.flags(enabled=False), torch.autocast(device, enabled=False):
            yield
    finally:
        convolution.fp32_precision, matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def convolve(node: Conv | Depthwise | Linear, x: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The layer's sums of products plus `offset` per channel: x (N, C, H, W) or (N, C), weight in torch's layout."""
    if isinstance(node, Linear):
        return F.linear(x, weight, offset)
    left, right, top, bottom = node.padding
    padding = (top, left)
    if (left, top) != (right, bottom):
        x, padding = F.pad(x, node.padding), (0, 0)
    x = unambiguous(x)
    groups = weight.shape[0] if isinstance(node, Depthwise) else 1
    if x.device.type == "cpu" and (_DIRECT_ONEDNN or groups > 1):
        return F.conv2d(x, weight, offset, node.stride, padding, node.dilation, groups)
    if groups > 1:
        with torch.backends.cudnn.flags(enabled=False):
            return F.conv2d(x, weight, offset, node.stride, padding, node.dilation, groups)
    return convolve_by_matmul(node, x, weight, offset, padding)


def unambiguous(x: torch.Tensor) -> torch.Tensor:
    """The images in a memory layout that torch's convolution handles.

    With one channel, row or column, channels-last strides also fit other layouts; torch 2.13 with oneDNN then computes wrong
    values or crashes. Such images are copied into plain (N, C, H, W) order.
    """
    return x if min(x.shape[1:]) > 1 else x.clone(memory_format=torch.contiguous_format)


def convolve_by_matmul(
    node: Conv | Depthwise, x: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor, padding: tuple[int, int]
) -> torch.Tensor:
    """A full convolution as one matrix product: the form in which every back end sums products and nothing else."""
    out, height, width = weight.shape[0], node.shape[0], node.shape[1]
    if node.kernel == (1, 1) and node.stride == (1, 1) and padding == (0, 0):
        columns = x.flatten(2)
    else:
        columns = F.unfold(x, node.kernel, node.dilation, padding, node.stride)  # (N, C * kh * kw, H * W)
    y = torch.matmul(weight.reshape(out, -1), columns).add_(offset[:, None])
    return y.reshape(len(x), out, height, width)
