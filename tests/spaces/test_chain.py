"""A chain computes what an `nn.Sequential` of its layers does, to the last bit, with less work in training."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.objectives.pruning import re_estimate_batch_norm
from edgesearch.spaces import Student, build
from edgesearch.spaces._chain import Chain, PooledNorm, make_positive

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


def pooled_norm(*, relu: bool, seed: int) -> tuple[Chain, nn.Sequential]:
    """A chain with batch-norm by what the pool passes on, and the same layers with the pool in front."""
    torch.manual_seed(seed)
    conv, norm, plain, pool = nn.Conv2d(4, 4, 3, padding=1), PooledNorm(4), nn.BatchNorm2d(4), nn.MaxPool2d(2)
    nn.init.normal_(norm.bias)
    plain.load_state_dict(norm.state_dict())
    behind = [nn.ReLU()] if relu else []
    chain = Chain(conv, norm, *behind, pool)
    return chain, nn.Sequential(copy.deepcopy(conv), pool, plain, *behind)


@given(relu=st.booleans(), seed=st.integers(0, 2**31))
def test_a_pooled_norm_goes_by_what_the_pool_passes_on_and_is_a_plain_one_later(relu: bool, seed: int) -> None:
    chain, pool_first = pooled_norm(relu=relu, seed=seed)
    for _ in range(2):
        images = torch.randn(5, 4, 9, 9) + 1
        ours, theirs = passed(chain, images), passed(pool_first, images)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
    assert torch.equal(chain[1].running_var, pool_first[2].running_var)
    conv, norm, *behind = chain.eval()
    plain = nn.BatchNorm2d(4)
    plain.load_state_dict(norm.state_dict())
    images = torch.randn(5, 4, 9, 9)
    assert torch.equal(chain(images), nn.Sequential(conv, plain, *behind).eval()(images))
    assert torch.equal(chain(images), pool_first.eval()(images))


@pytest.mark.parametrize("looked_at", [2, 3])
def test_a_pooled_norm_in_front_of_what_is_looked_at_computes_the_same_there(looked_at: int) -> None:
    chain, pool_first = pooled_norm(relu=True, seed=1)
    images, sizes = torch.randn(5, 4, 8, 8) + 1, []
    chain[looked_at].register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[-1]))
    ours, theirs = passed(chain, images), passed(pool_first, images)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chain[1].running_mean, pool_first[2].running_mean)
    torch.testing.assert_close(chain[1].running_var, pool_first[2].running_var)
    assert sizes[0] == 8  # in front of the pool


def test_factors_of_a_pooled_norm_stay_positive_in_training() -> None:
    chain, _ = pooled_norm(relu=True, seed=3)
    images = torch.randn(5, 4, 8, 8)
    for handle in (None, chain[2].register_forward_hook(lambda *_: None)):
        with torch.no_grad():
            chain[1].weight[0] = -1
        chain(images)
        assert chain[1].weight.min() == 0
        if handle is not None:
            handle.remove()


def test_kernels_are_turned_round_where_a_factor_is_negative() -> None:
    chain, _ = pooled_norm(relu=True, seed=4)
    images = torch.randn(5, 4, 8, 8)
    with torch.no_grad():
        nn.init.normal_(chain[1].weight)
        chain[1].running_mean.normal_()
        network = nn.Sequential(chain, nn.Flatten()).eval()
        before = network(images)
        assert chain[1].weight.min() < 0
        make_positive(network)
        assert chain[1].weight.min() > 0
        assert torch.equal(network(images), before)


def test_statistics_that_are_measured_anew_are_those_of_the_pool() -> None:
    chain, pool_first = pooled_norm(relu=True, seed=2)
    images = torch.randn(7, 4, 8, 8)
    for network in (chain, pool_first):
        re_estimate_batch_norm(network.eval(), images, batch_size=3)
    assert torch.equal(chain[1].running_mean, pool_first[2].running_mean)
    assert torch.equal(chain[1].running_var, pool_first[2].running_var)


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
