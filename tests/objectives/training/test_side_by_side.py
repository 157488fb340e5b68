"""Convolutions of images side by side are those of each image alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesearch.objectives.training import _side_by_side as module
from edgesearch.objectives.training._kernels import safe_kernels
from edgesearch.objectives.training._side_by_side import side_by_side

# Small whole numbers have products and sums that bfloat16 holds: every order of summation gives the same.
_FEW = 3


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that has them; what is computed is the same on all."""
    monkeypatch.setattr(module, "processor_has_tiles", lambda: True)
    monkeypatch.setattr(module, "_CHANNELS", 64)  # fewer than in earnest, for speed


def _whole(*shape: int, share: float = 1.0) -> Tensor:
    values = torch.randint(-1, 2, shape).to(torch.bfloat16)
    return values * (torch.rand(shape) < share)


def _gradients(answer: Tensor, tensors: list[Tensor], upstream: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(answer, tensors, upstream))


@given(
    count=st.integers(2, 40),
    size=st.tuples(st.integers(1, 9), st.integers(1, 8)),
    kernel=st.tuples(st.integers(1, 4), st.sampled_from([3, 5, 7])),
    above=st.integers(0, 3),
    has_bias=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 999),
)
def test_answers_and_gradients_are_those_of_each_image_alone(
    count: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    above: int,
    has_bias: bool,
    channels_last: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    height = max(size[0], kernel[0])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    padding = (above, kernel[1] // 2)
    images = _whole(count, 64, height, size[1], share=0.1).contiguous(memory_format=layout).requires_grad_()
    weight = _whole(64, 64, *kernel, share=0.1).requires_grad_()
    bias = _whole(64).requires_grad_() if has_bias else None
    found = side_by_side(images, weight, bias, (1, 1), padding, (1, 1), 1)
    assert found is not None
    tensors = [images, weight, *([] if bias is None else [bias])]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = torch.conv2d(exact[0], exact[1], exact[2] if has_bias else None, padding=padding)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0)
    upstream = _whole(*expected.shape, share=0.05)
    for one, other in zip(_gradients(found, tensors, upstream), _gradients(expected, exact, upstream.double()), strict=True):
        # A sum beyond 256 is rounded to bfloat16, which has eight bits of it.
        torch.testing.assert_close(one.double(), other, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": (4, 64, 9, 9)},  # too wide
        {"images": (1, 64, 7, 7)},  # alone
        {"images": (64, 7, 7)},
        {"weight": (32, 64, 3, 3)},
        {"weight": (64, 64, 1, 1), "padding": (0, 0)},
        {"padding": (1, 0)},  # the width changes
        {"stride": (2, 1)},
        {"dilation": (1, 2), "padding": (1, 2)},
        {"weight": (64, 32, 3, 3), "groups": 2},
        {"dtype": torch.float32},
    ],
)
def test_everything_else_is_left_to_torch(changed: dict[str, Any]) -> None:
    given: dict[str, Any] = {"images": (4, 64, 7, 7), "weight": (64, 64, 3, 3), "padding": (1, 1), "dtype": torch.bfloat16}
    given |= {"stride": (1, 1), "dilation": (1, 1), "groups": 1}

    def answer(of: dict[str, Any]) -> Tensor | None:
        images, weight = (torch.zeros(of[name], dtype=of["dtype"]) for name in ("images", "weight"))
        return side_by_side(images, weight, None, of["stride"], of["padding"], of["dilation"], of["groups"])

    assert answer(given) is not None
    assert answer(given | changed) is None


def test_what_it_keeps_for_the_way_back_are_the_images_themselves() -> None:
    images = _whole(8, 64, 7, 7).requires_grad_()
    weight = _whole(64, 64, 3, 3).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        side_by_side(images, weight, None, (1, 1), (1, 1), (1, 1), 1)
    assert {tensor.data_ptr() for tensor in kept} == {images.data_ptr(), weight.data_ptr()}


def test_a_step_under_autocast_has_gradients_of_the_weights_own_precision() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    images = torch.randn(6, 64, 5, 5)
    layer(images).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16), safe_kernels():
        answer = layer(images)
    assert answer.dtype == torch.bfloat16
    answer.float().square().sum().backward()
    for parameter, wanted in zip(layer.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert wanted is not None
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - wanted).norm() < 0.02 * wanted.norm()


def test_a_network_that_views_its_maps_as_rows_finds_them_as_torch_lays_them() -> None:
    layer, images = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(4, 64, 6, 6)
    with torch.autocast("cpu", torch.bfloat16), safe_kernels():
        answer = layer(images)
        lasting = layer(images.to(memory_format=torch.channels_last))
    assert answer.is_contiguous()
    assert answer.view(4, -1).shape == (4, 64 * 36)
    assert lasting.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(answer, lasting)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_layer_behind_it_may_change_its_answer_in_place(channels_last: bool) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU(inplace=True))
    images = torch.randn(5, 64, 6, 6).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    with torch.autocast("cpu", torch.bfloat16), safe_kernels():
        answer = layer(images)
    answer.float().sum().backward()
    assert layer[0].weight.grad is not None
    assert float(answer.detach().min()) == 0


def test_what_autocast_leaves_in_double_precision_stays_so() -> None:
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).double()
    with torch.autocast("cpu", torch.bfloat16), safe_kernels():
        assert layer(torch.zeros(2, 64, 5, 5, dtype=torch.float64)).dtype == torch.float64
