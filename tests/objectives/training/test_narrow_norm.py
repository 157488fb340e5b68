"""Batch-norm of several pixels at a time is that of each alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgesearch.objectives.training._allocations import Allocations
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.objectives.training._kernels import safe_kernels
from edgesearch.objectives.training._narrow_norm import _together, narrow_norm

_MOMENTUM = 0.3


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _images(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    return (torch.randn(shape) + mean).to(dtype).contiguous(memory_format=torch.channels_last)


def _reference(tensors: list[Tensor], running: list[Tensor], eps: float) -> tuple[Tensor, list[Tensor]]:
    """By sums over every pixel in float64: the answer, and the running numbers afterwards."""
    images, weight, bias = tensors
    mean, variance = images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)
    normal = (images - mean[:, None, None]) / (variance[:, None, None] + eps).sqrt()
    pixels = images.numel() / images.shape[1]
    new = [mean.detach(), variance.detach() * pixels / (pixels - 1)]
    return normal * weight[:, None, None] + bias[:, None, None], [
        (1 - _MOMENTUM) * old.double() + _MOMENTUM * one for old, one in zip(running, new, strict=True)
    ]


@given(
    channels=st.integers(1, 47).filter(lambda count: count % 16 != 0),
    count=st.integers(2, 9),
    size=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bfloat16=st.booleans(),
    mean=st.sampled_from([0.0, 10.0]),
    eps=st.sampled_from([1e-5, 0.1]),
    seed=st.integers(0, 999),
)
def test_answers_gradients_and_running_numbers_are_those_of_each_pixel_alone(
    channels: int, count: int, size: tuple[int, int], bfloat16: bool, mean: float, eps: float, seed: int
) -> None:
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    images = _images(count, channels, 4 * size[0], 8 * size[1], dtype=dtype, mean=mean).requires_grad_()
    weight, bias = (torch.randn(channels).requires_grad_() for _ in range(2))
    running = [torch.randn(channels), torch.rand(channels)]
    exact = [tensor.detach().double().requires_grad_() for tensor in (images, weight, bias)]
    expected, expected_running = _reference(exact, running, eps)
    found = narrow_norm(images, running[0], running[1], weight, bias, True, _MOMENTUM, eps)
    assert (found is None) == (channels == 1)  # one channel lies as if it came first
    if found is None:
        return
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    few = 2**-7 if bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=few, atol=few)
    for one, other in zip(running, expected_running, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    upstream = _images(*expected.shape, dtype=dtype)
    gradients = torch.autograd.grad(found, [images, weight, bias], upstream)
    for one, other in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        largest = float(other.abs().max()) + 1  # of few pixels the means by column are far from those by channel
        torch.testing.assert_close(one.double(), other, rtol=few, atol=4 * few * largest)


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": (8, 16, 4, 4)},  # a whole line
        {"shape": (8, 56, 4, 4)},  # wide
        {"shape": (3, 24, 3, 3)},  # an odd number of pixels, of which no two make one
        {"shape": (1, 8, 1, 2)},  # one pixel of two has no variance
        {"shape": (8, 24)},
        {"dtype": torch.float64},
        {"settings": torch.bfloat16},
        {"training": False},
        {"threads": 1},
        {"layout": torch.contiguous_format},
    ],
)
def test_everything_else_is_left_to_torch(changed: dict[str, Any]) -> None:
    given: dict[str, Any] = {"shape": (8, 24, 4, 4), "dtype": torch.float32, "settings": torch.float32, "training": True}
    given |= {"layout": torch.channels_last, "threads": 2}

    def answer(of: dict[str, Any]) -> Tensor | None:
        images = torch.randn(of["shape"]).to(of["dtype"])
        images = images.contiguous(memory_format=of["layout"]) if images.ndim == 4 else images
        one = torch.ones(of["shape"][1], dtype=of["settings"])
        torch.set_num_threads(of["threads"])
        return narrow_norm(images, None, None, one, one, of["training"], 0.1, 1e-5)

    assert answer(given) is not None
    assert answer(given | changed) is None
    torch.set_num_threads(2)


@given(channels=st.integers(1, 80), size=st.tuples(st.integers(1, 33), st.integers(1, 33)), half=st.integers(2, 200))
def test_batches_are_taken_as_the_few_images_are_that_memory_is_foretold_by(
    channels: int, size: tuple[int, int], half: int
) -> None:
    assert len({_together(torch.Size((count, channels, *size))) for count in (*PROBES, 2 * half)}) == 1


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_a_layer_is_normalised_so_while_it_is_trained(affine: bool, running: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(24, affine=affine, track_running_stats=running) for _ in range(2)]
    images = _images(8, 24, 6, 6)
    expected = layers[0](images.clone())
    with safe_kernels():
        found = layers[1](images.requires_grad_())
    assert "NarrowNorm" in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected)
    for name, tensor in layers[0].state_dict().items():
        torch.testing.assert_close(layers[1].state_dict()[name], tensor)


def test_a_layer_behind_it_may_change_its_answer_in_place() -> None:
    images = _images(8, 24, 4, 4).requires_grad_()
    one, zero = torch.ones(24), torch.zeros(24)
    found = narrow_norm(images, None, None, one, zero, True, 0.1, 1e-5)
    assert found is not None
    F.relu(found, inplace=True).square().sum().backward()
    other = images.detach().clone().requires_grad_()
    F.relu(F.batch_norm(other, None, None, one, zero, training=True)).square().sum().backward()
    torch.testing.assert_close(images.grad, other.grad)


def test_gradients_that_nobody_wants_are_not_computed() -> None:
    images, weight, bias = _images(8, 24, 4, 4), torch.ones(24).requires_grad_(), torch.zeros(24)
    found = narrow_norm(images, None, None, weight, bias, True, 0.1, 1e-5)
    assert found is not None
    found.square().sum().backward()
    assert images.grad is None
    assert weight.grad is not None
    assert bias.grad is None


def test_what_it_keeps_for_the_way_back_are_the_images_themselves() -> None:
    images = _images(8, 24, 4, 4).requires_grad_()
    found = narrow_norm(images, None, None, torch.ones(24), torch.zeros(24), True, 0.1, 1e-5)
    assert found is not None
    kept: Any = found.grad_fn
    assert [tensor.data_ptr() for tensor in kept.saved_tensors if tensor.numel() > 24] == [images.data_ptr()]


@pytest.mark.parametrize("behind", [[], [nn.ReLU(), nn.Conv2d(24, 8, 1)]])
def test_what_is_computed_again_on_the_way_back_has_the_same_gradients(behind: list[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24), *behind).to(memory_format=torch.channels_last)
    images = _images(8, 3, 8, 8).requires_grad_()
    gradients = []
    for again in (False, True):
        with safe_kernels():
            answer = checkpoint(layers, images, use_reentrant=False) if again else layers(images)
        upstream = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0))
        gradients.append(torch.autograd.grad(answer, [images, *layers.parameters()], upstream))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_steps_on_few_images_take_the_blocks_of_those_on_many() -> None:
    layer = nn.BatchNorm2d(24)

    def blocks(count: int) -> list[tuple[int, bool]]:
        images = _images(count, 24, 16, 16).requires_grad_()
        with Allocations([images, *layer.parameters(), *layer.buffers()]) as seen, safe_kernels():
            answer = layer(images)
            answer.backward(torch.ones_like(answer))
            assert "NarrowNorm" in type(answer.grad_fn).__name__
        layer.zero_grad(set_to_none=True)
        return [(number, size is None) for number, size in seen.events]

    assert blocks(2) == blocks(4) == blocks(32)
