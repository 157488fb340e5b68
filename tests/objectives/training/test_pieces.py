"""A training goes on in halves where memory does not suffice for its batches, towards the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgesearch.errors import OutOfMemory
from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.training import DataShape, Recipe, Training, predict_memory, train
from edgesearch.objectives.training import _train as loop
from edgesearch.objectives.training._distillation import Batch, Loss
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.objectives.training._pieces import Pieces

RECIPE = Recipe(epochs=2, batch_size=33, lr=0.05, mixed_precision="off")


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=99, validation_images=50, calibration_images=20))


class Memory:
    """Suffices for so many images at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 1000
        self.seen: list[int] = []
        real = Loss.__call__

        def limited(loss: Loss, batch: Batch) -> Tensor:
            if len(batch.labels) > max(PROBES):  # others are those that memory is foretold with
                self.seen.append(len(batch.labels))
            if len(batch.labels) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(loss, batch)

        monkeypatch.setattr(Loss, "__call__", limited)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


class Kept:
    """Checkpoints in memory."""

    newest: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.newest

    def save(self, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.newest = epoch, tensors, meta


def trained(data: DataSet, **more: Any) -> tuple[Tensor, Training]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
    training = train(model, data, recipe=RECIPE, input_size=8, seed=1, device="cpu", **more)
    return torch.cat([value.flatten() for value in model.state_dict().values()]), training


def test_two_halves_take_the_steps_of_the_whole_batch(digits: DataSet, memory: Memory) -> None:
    whole, training = trained(digits)
    assert training.pieces == 1
    assert set(memory.seen) == {33}
    memory.seen = []
    asked, training = trained(digits, pieces=4)
    assert training.pieces == 4
    assert memory.seen[:4] == [8, 8, 8, 9]
    torch.testing.assert_close(asked, whole, rtol=1e-3, atol=1e-5)
    memory.images, memory.seen = 20, []
    halves, training = trained(digits)
    assert training.pieces == 2
    assert memory.seen == [33] + 6 * [16, 17]  # tried whole once, not at every step
    torch.testing.assert_close(halves, whole, rtol=1e-3, atol=1e-5)
    memory.images = 1000
    assert not torch.allclose(trained(digits, stop_after=1)[0], whole, rtol=1e-3, atol=1e-5)  # steps matter by more


@pytest.mark.parametrize(("batch", "pieces"), [(5, 4), (2, 1), (2, 8)])
def test_no_batch_and_no_piece_is_of_one_image(digits: DataSet, batch: int, pieces: int) -> None:
    """One has no batch statistics, and this network refuses it. The number of images is odd."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    recipe = RECIPE.model_copy(update={"batch_size": batch})
    assert len(digits.train) % 2 == 1
    assert train(model, digits, recipe=recipe, input_size=8, seed=1, device="cpu", pieces=pieces).history


def test_halves_that_do_not_fit_either_are_halved_again(digits: DataSet, memory: Memory) -> None:
    whole, _ = trained(digits)
    memory.images, memory.seen = 10, []
    quarters, training = trained(digits)
    assert training.pieces == 4
    assert memory.seen[:6] == [33, 16, 8, 8, 8, 9]
    torch.testing.assert_close(quarters, whole, rtol=1e-3, atol=1e-5)


def test_what_does_not_fit_in_the_smallest_pieces_is_out_of_memory(
    digits: DataSet, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pieces, "_in_pieces", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(OutOfMemory, match=r"in epoch 1 at batch size 33; use a smaller batch"):
        trained(digits)


def test_a_batch_that_will_not_fit_is_halved_before_it_fails(
    digits: DataSet, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = trained(digits)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
    foretold = predict_memory(model, DataShape.of(digits), recipe=RECIPE, input_size=8, before=0)
    steps = {images: foretold.fixed + foretold.step.peak(images) for images in (17, 33)}
    monkeypatch.setattr(loop, "free_memory", lambda device: steps[33])
    assert trained(digits)[1].pieces == 1
    monkeypatch.setattr(loop, "free_memory", lambda device: steps[17])
    memory.seen = []
    halves, training = trained(digits)
    assert training.pieces == 2
    assert memory.seen == 6 * [16, 17]  # never tried whole
    torch.testing.assert_close(halves, whole, rtol=1e-3, atol=1e-5)


def test_memory_is_asked_for_before_anything_is_there_that_was_foretold(
    digits: DataSet, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real, whole = loop.Batches, loop.free_memory
    monkeypatch.setattr(loop, "free_memory", lambda device: (order.append("asked"), whole(device))[1])
    monkeypatch.setattr(loop, "Batches", lambda *given, **named: (order.append("images"), real(*given, **named))[1])
    trained(digits)
    assert order == ["asked", "images"]


def test_other_errors_are_not_tried_again(digits: DataSet, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Loss.__call__

    def broken(loss: Loss, batch: Batch) -> Tensor:
        if len(batch.labels) <= max(PROBES):
            return real(loss, batch)
        memory.seen.append(len(batch.labels))
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(Loss, "__call__", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        trained(digits)
    assert memory.seen == [33]


def test_a_training_that_goes_on_stays_in_halves_and_says_so(digits: DataSet, memory: Memory) -> None:
    checkpoints = Kept()
    memory.images = 20
    trained(digits, checkpoints=checkpoints, stop_after=1)
    memory.images, memory.seen = 1000, []
    assert trained(digits, checkpoints=checkpoints)[1].pieces == 2
    assert memory.seen == 3 * [16, 17]
