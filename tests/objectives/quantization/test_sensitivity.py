"""Sensitivity is measured without the kernels that write beyond their memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgesearch.board_eval.execution import Network
from edgesearch.board_eval.lowering import lower
from edgesearch.objectives.quantization._sensitivity import Sensitivity, measure
from edgesearch.spaces import Student, build


class Gradients(TorchDispatchMode):
    """Keeps (kernel, stride, channels read) of every convolution whose gradient is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            weight, stride = args[2], args[4]
            self.seen.append((tuple(weight.shape[2:]), tuple(stride), weight.shape[1]))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def measured(name: str) -> Sensitivity:
    torch.manual_seed(0)
    network = Network.of(lower(build(Student(architecture=name), channels=3, classes=10).eval(), (3, 16, 16)))
    return measure(network, torch.randn(2, 3, 16, 16), 0)


@pytest.mark.usefixtures("two_threads")
def test_no_gradient_of_a_narrow_convolution_is_that_of_a_strided_one() -> None:
    with Gradients() as gradients:
        measured("staged 4 r1x4 r1x8/2 r1x32/2")
    assert {kernel for kernel, _, _ in gradients.seen} == {(1, 1), (3, 3)}
    assert not [each for each in gradients.seen if each[0] == (1, 1) and each[1] != (1, 1)]


@pytest.mark.usefixtures("two_threads")
def test_wide_ones_are_computed_as_they_are() -> None:
    with Gradients() as gradients:
        measured("staged 16 r1x16 r1x32/2")
    assert ((1, 1), (2, 2), 16) in gradients.seen
