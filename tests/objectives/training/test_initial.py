"""What a whitened first layer tells apart, what identities pass on, and that both are only where training begins."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import DataSet, DataSettings, Normalisation, Split, load_data
from edgesearch.objectives.stages import Pipeline
from edgesearch.objectives.training import Recipe, train
from edgesearch.objectives.training._initial import begin_as_identity, whiten


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=300, validation_images=100))


@pytest.fixture(scope="module")
def coloured(digits: DataSet) -> DataSet:
    """Images of 12x12 pixels in colour whose neighbours are alike, as those of photographs are."""
    count, side = 64, 12
    rng = np.random.default_rng(1)
    rough = rng.normal(size=(count, side + 2, side + 2, 3))
    smooth = sum(rough[:, y : y + side, x : x + side] for y in range(3) for x in range(3))
    images = (128 + 12 * smooth).clip(0, 255).astype(np.uint8)
    split = Split(images, np.zeros(count, dtype=np.int64))
    plain = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return dataclasses.replace(digits, train=split, channels=3, size=(side, side), normalisation=plain)


def network(reads: int, width: int, kernel: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(reads, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def answers(layer: nn.Conv2d, data: DataSet) -> Tensor:
    """What the layer answers at every place of every image that it sees whole: (places, kernels)."""
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (data.normalisation.mean, data.normalisation.std))
    images = (torch.tensor(data.train.images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    found = torch.nn.functional.conv2d(images, layer.weight.detach())
    return found.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("kernel", [2, 3])
def test_directions_of_a_whitened_layer_vary_alike_and_apart(coloured: DataSet, kernel: int) -> None:
    model = network(3, 2 * 3 * kernel**2, kernel)
    layer = model[0]
    assert isinstance(layer, nn.Conv2d)
    before = torch.corrcoef(answers(layer, coloured).T) - torch.eye(len(layer.weight))
    assert whiten(model, coloured, (12, 12))
    found = answers(layer, coloured)
    positive, negative = found[:, 0::2], found[:, 1::2]
    torch.testing.assert_close(positive, -negative)
    covariance = torch.cov(positive.T)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 0.05 < before.abs().max()


def test_the_most_telling_directions_come_first_and_the_rest_is_mixed(coloured: DataSet) -> None:
    few, many = network(3, 4, 2), network(3, 40, 2)
    for model in (few, many):
        assert whiten(model, coloured, (12, 12))
    torch.testing.assert_close(few[0].weight, many[0].weight[:4])
    mixed = answers(many[0], coloured)[:, 24:]
    torch.testing.assert_close(mixed.var(0), torch.ones(16), atol=0.05, rtol=0)


def test_a_network_that_begins_otherwise_keeps_its_weights(digits: DataSet) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    before = model[1].weight.detach().clone()
    assert not whiten(model, digits, (8, 8))
    assert torch.equal(before, model[1].weight)
    assert model[1].weight.requires_grad


def test_a_weight_that_is_computed_stays_as_it_is(digits: DataSet) -> None:
    model = network(1, 8)
    for index in (0, 3):
        nn.utils.parametrizations.weight_norm(model[index])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not whiten(model, digits, (8, 8))
    begin_as_identity(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("padding", [5, "same"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_kernel_larger_than_the_image_is_whitened_by_padded_windows(digits: DataSet, padding: Any, mode: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 11, padding=padding, padding_mode=mode))
    before = model[0].weight.detach().clone()
    assert whiten(model, digits, (8, 8))
    assert torch.isfinite(model[0].weight).all()
    assert not torch.equal(before, model[0].weight)
    torch.testing.assert_close(model[0].weight[0], -model[0].weight[1])


def test_images_of_one_colour_have_no_directions(digits: DataSet) -> None:
    grey = dataclasses.replace(digits, train=Split(np.full((20, 8, 8, 1), 77, np.uint8), np.arange(20) % 10))
    with pytest.raises(TrainingError, match="of one colour everywhere; give other images, or leave `whitened` out"):
        whiten(network(1, 8), grey, (8, 8))


@settings(deadline=None)
@given(reads=st.integers(1, 6), width=st.integers(1, 6), kernel=st.sampled_from([1, 2, 3, 5]))
def test_identities_pass_on_what_they_read(reads: int, width: int, kernel: int) -> None:
    first = nn.Conv2d(1, reads, 3, padding=1)
    layer = nn.Conv2d(reads, width, kernel, padding=kernel // 2, bias=False)
    kept = [value.detach().clone() for value in (first.weight, layer.weight)]
    begin_as_identity(nn.Sequential(first, layer))
    assert torch.equal(kept[0], first.weight)
    if kernel in (1, 2):
        assert torch.equal(kept[1], layer.weight)
    else:
        seen = torch.randn(2, reads, 7, 7)
        passed = min(reads, width)
        torch.testing.assert_close(layer(seen)[:, :passed], seen[:, :passed])
        assert torch.equal(kept[1][passed:], layer.weight[passed:])


def test_the_whitened_layer_is_not_trained_and_all_else_is(digits: DataSet) -> None:
    model, untrained = network(1, 18), network(1, 18)
    whiten(untrained, digits, digits.size)
    begun = {name: value.clone() for name, value in untrained.state_dict().items()}
    done = train(model, digits, recipe=Recipe(epochs=1, whitened=True), input_size=None, seed=0)
    assert done.frozen_parameters == model[0].weight.numel()
    still = [name for name, value in model.named_parameters() if torch.equal(value, begun[name])]
    assert still == ["0.weight"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_training_with_both_goes_on_bit_for_bit(digits: DataSet, optimizer: Any) -> None:
    class Memory:
        kept: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None

        def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
            return self.kept

        def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
            self.kept = (epoch, tensors, meta)

    recipe = Recipe(epochs=3, optimizer=optimizer, whitened=True, identity=True, average_epochs=0.5)
    whole, broken, memory = network(1, 18), network(1, 18), Memory()
    train(whole, digits, recipe=recipe, input_size=None, seed=0)
    train(broken, digits, recipe=recipe, input_size=None, seed=0, checkpoints=memory, stop_after=1)
    train(broken, digits, recipe=recipe, input_size=None, seed=0, checkpoints=memory)
    assert all(torch.equal(value, broken.state_dict()[name]) for name, value in whole.state_dict().items())


def test_fine_tuning_does_not_begin_anew() -> None:
    with pytest.raises(ValueError, match=r"finetune goes on from trained weights; `whitened` and `identity` belong"):
        Pipeline(finetune=Recipe(whitened=True))
