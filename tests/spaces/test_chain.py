"""A chain computes what an `nn.Sequential` of its layers does, to the last bit, with less work in training."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.spaces import Student, build
from edgesearch.spaces._chain import Chain

_LAYERS = {
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "norm": lambda: nn.BatchNorm2d(4),
    "relu": nn.ReLU,
    "pool": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "mean": lambda: nn.AvgPool2d(3, 1, 1),
}


def passed(layers: nn.Module, images: Tensor) -> list[Tensor]:
    """The answer, and all gradients."""
    images = images.clone().requires_grad_()
    answer = layers(images)
    answer.square().sum().backward()
    return [answer, images.grad, *(p.grad for p in layers.parameters())]


@given(
    names=st.lists(st.sampled_from(sorted(_LAYERS)), min_size=1, max_size=7),
    seed=st.integers(0, 2**31),
    coarse=st.booleans(),
    training=st.booleans(),
)
def test_answers_and_gradients_are_those_of_a_sequential(names: list[str], seed: int, coarse: bool, training: bool) -> None:
    torch.manual_seed(seed)
    plain = nn.Sequential(*(_LAYERS[name]() for name in names)).train(training)
    chain = Chain(*copy.deepcopy(list(plain))).train(training)
    images = torch.randn(2, 4, 9, 9)
    if coarse:  # many equal numbers in a window
        images = images.round()
    for ours, theirs in zip(passed(chain, images), passed(plain, images), strict=True):
        assert torch.equal(ours, theirs)


def watched(chain: Chain, *, training: bool) -> int:
    """Numbers of an image that its ReLU reads."""
    seen: list[int] = []
    relu = next(layer for layer in chain if isinstance(layer, nn.ReLU))
    forward = relu.forward

    def count(x: Tensor) -> Tensor:
        seen.append(x[0].numel())
        return forward(x)

    relu.forward = count  # type: ignore[method-assign]  # no hook: a watched layer stays where it is
    chain.train(training)(torch.randn(2, 3, 8, 8))
    return seen[0]


@pytest.mark.parametrize(("training", "count"), [(True, 4 * 16), (False, 4 * 64)])
def test_a_relu_reads_what_a_pool_leaves_in_training_alone(training: bool, count: int) -> None:
    assert watched(Chain(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), training=training) == count


def test_a_layer_that_is_watched_stays_where_it_is() -> None:
    chain = Chain(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).train()
    sizes = []
    for layer in (chain[1], chain[2]):
        handle = layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
        chain(torch.randn(2, 3, 8, 8))
        handle.remove()
    assert sizes == [(8, 8), (4, 4)]


@pytest.mark.parametrize("architecture", ["vgg_small", "staged 16 c2x32p c2x32p max", "cnn_small"])
def test_built_in_networks_with_pools_are_chains(architecture: str) -> None:
    model = build(Student(architecture=architecture, input_size=32), channels=3, classes=10)
    pools = {name.rpartition(".")[0] for name, module in model.named_modules() if type(module) is nn.MaxPool2d}
    assert all(isinstance(model.get_submodule(name), Chain) for name in pools if name)
    assert any(name for name in pools)
