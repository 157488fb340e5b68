"""A training that was stopped or killed goes on where it was, to the same bits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.objectives.data._dataset import DataSet, DataSettings, load_data
from edgesearch.objectives.training._distillation import Supervision
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._train import train

from ._digits import network, run, same


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=300, validation_images=100))


class Memory:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return (max(self.kept), *self.kept[max(self.kept)]) if self.kept else None

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.kept[epoch] = (tensors, meta)


_MORE = {"clip_norm": 0.5, "average_epochs": 1.5, "augmentation": "cutout", "schedule": "linear"}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw"},
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"optimizer": "muon", "lr": 0.01},
        _MORE,
        {"small_epochs": 3},
        {"mix": "mixup", "augmentation": "randaugment"},
        {"mix": "cutmix", "mix_alpha": 0.4, "augmentation": "colour", "augmentation_strength": 0.5},
    ],
    ids=["adamw", "adam", "sgd", "muon", "more", "small", "mixup", "cutmix"],
)
@pytest.mark.parametrize("select", ["last", "best"])
def test_a_resumed_training_gives_the_same_bits(digits: DataSet, changes: dict[str, Any], select: str) -> None:
    recipe = Recipe(**{"epochs": 4, "label_smoothing": 0.1, **changes})
    whole, rung = network(), network()
    straight = run(whole, digits, recipe=recipe, select=select)
    memory = Memory()
    first = run(rung, digits, recipe=recipe, select=select, checkpoints=memory, stop_after=2)
    assert (first.epochs_done, list(memory.kept)) == (2, [2])
    resumed = network(seed=9)  # its own weights must not matter
    second = run(resumed, digits, recipe=recipe, select=select, checkpoints=memory)
    assert same(whole, resumed)
    assert [e.loss for e in second.history] == [e.loss for e in straight.history]
    assert second.accuracy == straight.accuracy


def test_a_killed_training_goes_on_from_its_last_epoch(digits: DataSet) -> None:
    whole, killed, memory = network(), network(), Memory()
    run(whole, digits)

    def kill(epoch: int, loss: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(killed, digits, checkpoints=memory, checkpoint_seconds=0, on_epoch=kill)
    assert list(memory.kept) == [1, 2]
    resumed = network(seed=5)
    went_on = run(resumed, digits, checkpoints=memory)
    assert same(whole, resumed)
    assert went_on.earlier_seconds >= sum(epoch.seconds for epoch in went_on.history[:2]) > 0


def test_what_a_training_cost_that_was_stopped_on_purpose_is_not_told_again(digits: DataSet) -> None:
    memory = Memory()
    first = run(network(), digits, checkpoints=memory, stop_after=2)
    second = run(network(), digits, checkpoints=memory, stop_after=3)
    assert (first.earlier_seconds, second.earlier_seconds) == (0.0, 0.0)
    assert second.epochs_done == 3
    _, tensors, meta = memory.latest() or pytest.fail("nothing was saved")
    memory.save(3, tensors, meta | {"spent": 7.0})  # of a process that was killed right behind the third epoch
    third = run(network(), digits, checkpoints=memory, stop_after=3)
    assert third.earlier_seconds == 7.0
    assert run(network(), digits, checkpoints=memory).earlier_seconds == 0.0


class Cut(Memory):
    """Ends the training once it has saved so many times."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        super().save(epoch, tensors, meta)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cuts", [(1,), (5,), (9, 1, 4), (10, 3)], ids=str)
@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "adamw"}, {"optimizer": "muon", "lr": 0.01}, _MORE, {"mix": "mixup", "augmentation": "randaugment"}],
    ids=["adamw", "muon", "more", "mixup"],
)
def test_a_training_goes_on_from_within_an_epoch(digits: DataSet, changes: dict[str, Any], cuts: tuple[int, ...]) -> None:
    """It is saved after every one of ten steps; the tenth ends an epoch that is not counted yet."""
    recipe = Recipe(**{"epochs": 2, "batch_size": 30, "label_smoothing": 0.1, **changes})
    whole, model, memory = network(), network(), Memory()
    straight = run(whole, digits, recipe=recipe, select="best")
    for after in cuts:
        cut = Cut(after)
        cut.kept = memory.kept
        with pytest.raises(KeyboardInterrupt):
            run(model, digits, recipe=recipe, select="best", checkpoints=cut, checkpoint_within=0.0)
        memory, model = cut, network(seed=9)
    assert "under_way" in memory.kept[max(memory.kept)][1]
    memory.left = -1
    steps: list[int] = []
    resumed = run(
        model, digits, recipe=recipe, select="best", checkpoints=memory, on_epoch=lambda epoch, loss: steps.append(epoch)
    )
    assert same(whole, model)
    assert [e.loss for e in resumed.history] == [e.loss for e in straight.history]
    assert resumed.accuracy == straight.accuracy
    assert steps == [1, 2][sum(cuts) // 11 :]


def test_intermediate_distillation_resumes_with_its_projections(digits: DataSet) -> None:
    taught = Supervision(kind="intermediate", teacher=network(9, seed=7))
    whole, rung, memory = network(), network(), Memory()
    run(whole, digits, supervision=taught)
    run(rung, digits, supervision=taught, checkpoints=memory, stop_after=2)
    run(rung, digits, supervision=taught, checkpoints=memory)
    assert same(whole, rung)
    assert any(name.startswith("projections/") for name in memory.kept[2][0])


def test_a_checkpoint_beyond_the_rung_is_not_used(digits: DataSet) -> None:
    memory, late, early, reference = Memory(), network(), network(), network()
    run(late, digits, checkpoints=memory, stop_after=3)
    run(early, digits, checkpoints=memory, stop_after=1)
    run(reference, digits, stop_after=1)
    assert same(early, reference)


def test_a_checkpoint_within_the_epoch_behind_the_rung_is_not_used(digits: DataSet) -> None:
    cut, early, reference = Cut(5), network(), network()
    three_steps = Recipe(epochs=4, batch_size=100)
    with pytest.raises(KeyboardInterrupt):
        run(network(), digits, recipe=three_steps, checkpoints=cut, checkpoint_within=0.0)
    assert (max(cut.kept), "under_way" in cut.kept[1][1]) == (1, True)
    cut.left = -1
    run(early, digits, recipe=three_steps, checkpoints=cut, stop_after=1)
    run(reference, digits, recipe=three_steps, stop_after=1)
    assert same(early, reference)


class Drawn(nn.Module):
    """Passes over a layer by chance while it is trained, as NumPy's and Python's numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.body(x)
        return answer if not self.training or random.random() < 0.5 else answer * float(np.random.rand())


def test_what_a_network_draws_by_itself_follows_from_the_seed_at_every_step(digits: DataSet) -> None:
    def trained(stop_after: int | None = None, memory: Memory | None = None, seed: int = 5) -> Drawn:
        torch.manual_seed(0)
        model = Drawn()
        train(model, digits, recipe=Recipe(epochs=2), input_size=8, seed=seed, stop_after=stop_after, checkpoints=memory)
        return model

    random.seed(1)
    np.random.seed(1)
    whole = trained()
    random.seed(2)
    np.random.seed(2)
    memory = Memory()
    trained(1, memory)
    random.random()
    assert same(trained(None, memory), whole)
    assert not same(trained(seed=6), whole)
