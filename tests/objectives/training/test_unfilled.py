"""Convolutions that are not computed, beside those of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgesearch.objectives.training._kernels import safe_kernels
from edgesearch.objectives.training._unfilled import unfilled


class Compared(TorchDispatchMode):
    """Computes all, and compares what is unfilled with it; `count` convolutions were."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        hollow = unfilled(func, args)
        if hollow is not None:
            self.count += 1
            one, other = ((result,), (hollow,)) if isinstance(result, Tensor) else (result, hollow)
            assert [shape_of(each) for each in one] == [shape_of(each) for each in other]
        return result


def shape_of(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    steps = [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]  # others lead nowhere
    return tensor.shape, steps, tensor.dtype, tensor.device


@settings(deadline=None, max_examples=120)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    channels=st.sampled_from([(1, 4, 1), (4, 4, 1), (8, 16, 1), (16, 24, 1), (6, 9, 3), (16, 16, 16), (20, 40, 20)]),
    transposed=st.booleans(),
    bias=st.booleans(),
    images_train=st.booleans(),
    last=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@example((1, 1), (1, 3), (0, 0), 1, (4, 4, 1), False, False, False, (True, False), torch.float32)  # pixels with gaps
def test_shapes_layouts_and_kinds_are_those_of_torch(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: int,
    channels: tuple[int, int, int],
    transposed: bool,
    bias: bool,
    images_train: bool,
    last: tuple[bool, bool],
    dtype: torch.dtype,
) -> None:
    inside, outside, groups = channels
    first, second = (inside, outside // groups) if transposed else (outside, inside // groups)
    images = torch.zeros(2, inside, 11, 9, dtype=dtype)
    weight = torch.zeros(first, second, *kernel, dtype=dtype)
    images, weight = (
        each.contiguous(memory_format=torch.channels_last) if is_last else each
        for each, is_last in zip((images, weight), last, strict=True)
    )
    images.requires_grad_(images_train)
    weight.requires_grad_(True)
    added = torch.zeros(outside, dtype=dtype, requires_grad=True) if bias else None
    with safe_kernels(), Compared() as mode:
        if transposed:
            result = torch.conv_transpose2d(images, weight, added, stride, padding, 0, groups, dilation)
        else:
            result = torch.conv2d(images, weight, added, stride, padding, dilation, groups)
        result.sum().backward()  # type: ignore[no-untyped-call]
    assert mode.count == 2


@pytest.mark.parametrize("work", [lambda: torch.zeros(3) + 1, lambda: torch.conv1d(torch.zeros(1, 2, 5), torch.zeros(2, 2, 3))])
def test_all_else_is_to_be_computed(work: Any) -> None:
    with Compared() as mode:
        work()
    assert mode.count == 0
