"""Training learns, is the same for the same seed, and says why it fails."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.errors import NotFinite, TrainingError
from edgesearch.objectives.data._dataset import DataSet, DataSettings, load_data
from edgesearch.objectives.training._distillation import Supervision
from edgesearch.objectives.training._evaluation import evaluate, predict_logits
from edgesearch.objectives.training._footprint import PROBES
from edgesearch.objectives.training._optimizers import learning_rate
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._small_epochs import check_small_epochs

from ._digits import network, run, same


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=300, validation_images=100))


def test_it_learns_and_reports(digits: DataSet) -> None:
    model = network(16)
    model[8] = nn.Identity()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)  # frozen by whoever made it
    before = model[0].weight.clone()
    training = run(model, digits, recipe=Recipe(epochs=15, lr=2e-2, batch_size=32))
    assert training.accuracy > 0.85
    assert training.accuracy == evaluate(model, digits.validation, input_size=None, normalisation=digits.normalisation)
    assert training.history[-1].loss < 0.5 * training.history[0].loss
    assert (training.epochs_done, training.kept_epoch, len(training.history)) == (15, 15, 15)
    assert training.frozen_parameters == 0
    assert not torch.equal(before, model[0].weight)
    assert not any(module.training for module in model.modules())


def test_the_seed_decides(digits: DataSet) -> None:
    one, again, other = network(), network(), network()
    state = torch.get_rng_state()
    run(one, digits)
    torch.manual_seed(99)  # what else happens in the process must not matter
    run(again, digits)
    run(other, digits, seed=4)
    assert same(one, again)
    assert not same(one, other)
    torch.set_rng_state(state)


def test_a_training_leaves_the_random_state_alone(digits: DataSet) -> None:
    before = torch.get_rng_state()
    model = network()
    torch.set_rng_state(before)
    run(model, digits, stop_after=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_epoch_is_kept(digits: DataSet) -> None:
    model = network()
    training = run(model, digits, recipe=Recipe(epochs=6, lr=0.2, warmup_epochs=0), select="best")
    accuracies = [epoch.accuracy for epoch in training.history]
    assert training.accuracy == max(a for a in accuracies if a is not None)
    assert accuracies[training.kept_epoch - 1] == training.accuracy
    assert evaluate(model, digits.validation, input_size=None, normalisation=digits.normalisation) == training.accuracy


def test_other_input_sizes_and_channels_and_a_last_batch_of_one() -> None:
    rng = np.random.default_rng(0)
    data = load_data(DataSettings(train_images=65, validation_images=20))
    colour = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10)
    )
    training = run(colour, data, recipe=Recipe(epochs=1, batch_size=64), input_size=20)
    assert math.isfinite(training.history[0].loss)
    images = rng.integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    options: dict[str, Any] = {"input_size": 20, "normalisation": data.normalisation}
    logits = predict_logits(colour, images, **options)
    assert logits.shape == (9, 10)
    assert np.allclose(logits, predict_logits(colour, images, **options, batch_size=2), atol=1e-5)


def sizes_seen(model: nn.Module) -> list[tuple[int, ...]]:
    """The sizes (height, width) of the inputs that `model` gets in training, as they come, without repeats."""
    seen: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 1 and tuple(inputs[0].shape[2:]) not in seen[-1:]:
            seen.append(tuple(inputs[0].shape[2:]))

    model.register_forward_pre_hook(note)
    return seen


def test_first_epochs_may_see_smaller_images(digits: DataSet) -> None:
    student, teacher = network(), network(seed=1)
    seen, taught = sizes_seen(student), sizes_seen(teacher)
    run(student, digits, recipe=Recipe(epochs=4, small_epochs=3), supervision=Supervision(teacher=teacher))
    assert seen == [(8, 8), (6, 6), (8, 8)]  # memory is foretold with whole images
    assert taught == [(8, 8)]  # the teacher was trained with whole images
    whole = network()
    run(whole, digits, recipe=Recipe(epochs=4), supervision=Supervision(teacher=teacher))
    assert not same(student, whole)


def test_a_network_of_one_size_is_not_trained_on_smaller_images(digits: DataSet) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(TrainingError, match="takes images of 6x6 pixels, too, and this one does not"):
        run(model, digits, recipe=Recipe(epochs=2, small_epochs=1))


class Insists(nn.Module):
    """A network that says itself which images it takes, or does not."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.error, self.conv = error, nn.Conv2d(1, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None and x.shape[-1] != 8:
            raise self.error
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("8 x 8 only\nplease"), "8 x 8 only"), (AssertionError(), "AssertionError"), (SystemExit(3), "3")],
)
def test_whatever_a_network_raises_on_smaller_images_is_said(error: BaseException, words: str) -> None:
    with pytest.raises(TrainingError, match=rf"and this one does not \({words}\); leave it out"):
        check_small_epochs(Insists(error), 1, (8, 8))
    check_small_epochs(Insists(None), 1, (8, 8))
    check_small_epochs(Insists(None).to("meta"), 1, (8, 8))  # wherever it lies


def test_a_network_that_cannot_be_whitened_is_trained_and_told(digits: DataSet) -> None:
    for layers, told in (([nn.Flatten(), nn.Linear(64, 10)], 1), ([nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10)], 0)):
        lines: list[str] = []
        run(nn.Sequential(*layers), digits, recipe=Recipe(epochs=1, whitened=True), note=lines.append)
        assert len([line for line in lines if "`whitened` has no effect" in line]) == told


def test_gradients_are_clipped_and_weights_averaged(digits: DataSet) -> None:
    plain, clipped, averaged = network(), network(), network()
    losses = {}
    for name, model, changes in (
        ("plain", plain, {}),
        ("clipped", clipped, {"clip_norm": 1e-6, "optimizer": "sgd"}),
        ("averaged", averaged, {"average_epochs": 100.0}),
    ):
        recipe = Recipe(**{"epochs": 3, "weight_decay": 0.0, **changes})  # type: ignore[arg-type]
        losses[name] = [epoch.loss for epoch in run(model, digits, recipe=recipe).history]
    start = network()
    moved = [(a - b).norm() for a, b in zip(clipped.parameters(), start.parameters(), strict=True)]
    assert max(moved) < 1e-5
    assert losses["averaged"] == losses["plain"]  # the average takes no part in training
    far, near = (
        sum((a - b).norm() for a, b in zip(m.parameters(), start.parameters(), strict=True)) for m in (plain, averaged)
    )
    assert near < far


@pytest.mark.parametrize("augmentation", ["none", "shift", "flip_crop", "alternate_flip", "cutout", "colour", "randaugment"])
def test_an_epoch_shows_every_image_once(digits: DataSet, augmentation: str) -> None:
    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen.append(x.detach().clone())
            return self.weight[None].repeat(len(x), 1)

    model = Count()
    run(model, digits, recipe=Recipe(epochs=1, augmentation=augmentation, batch_size=50))  # type: ignore[arg-type]
    shown = torch.cat(model.seen)
    assert [len(batch) for batch in model.seen] == [50] * 6
    stored = torch.tensor(digits.train.images).permute(0, 3, 1, 2) / 255 * 2 - 1
    sums = [torch.sort(images.flatten(1).sum(1)).values for images in (shown, stored)]
    assert torch.allclose(*sums, atol=1e-3) == (augmentation == "none")


def test_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(epochs=10, lr=1.0, warmup_epochs=2)
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate(Recipe(epochs=1, lr=1.0, warmup_epochs=0), 0, 5) == 1.0


def test_a_loss_that_is_not_finite_names_epoch_and_layer(digits: DataSet) -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = math.inf
    with pytest.raises(TrainingError, match=r"the loss is nan, not a finite number, in epoch 1 .*output of 3"):
        run(model, digits)
    with pytest.raises(TrainingError, match="not a finite number"):
        run(network(), digits, recipe=Recipe(epochs=9, lr=1e30, optimizer="sgd", warmup_epochs=0))


@pytest.mark.parametrize("more", [{}, {"average_epochs": 1.0}])
@pytest.mark.parametrize("select", ["last", "best"])
def test_a_last_step_that_explodes_ends_the_training_as_an_earlier_one_would(
    digits: DataSet, more: dict[str, Any], select: Any
) -> None:
    recipe = Recipe(epochs=1, batch_size=300, lr=1e40, optimizer="sgd", warmup_epochs=0, schedule="linear", **more)
    with pytest.raises(NotFinite, match=r"numbers of \d\.\w+ are not finite in epoch 1, behind a loss of \d\.\d+; use a lower"):
        run(network(), digits, recipe=recipe, select=select)


@pytest.mark.parametrize("training", [True, False])
def test_numbers_of_the_network_that_are_not_finite_are_told_with_epoch_and_loss(digits: DataSet, training: bool) -> None:
    """In a pass of the third epoch, and in validation behind the last."""

    class Counting(nn.Sequential):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            own = self.training and len(x) > max(PROBES)
            self.passes += own
            if (self.passes > 2 and training) or (not (training or self.training) and self.passes):
                raise NotFinite("a number became nan")
            answer: Tensor = super().forward(x)
            return answer

    model = Counting(network())
    recipe = Recipe(epochs=4 if training else 1, batch_size=300, mixed_precision="off")
    epoch = 3 if training else 1
    with pytest.raises(NotFinite, match=rf"a number became nan in epoch {epoch}, behind a loss of \d\.\d+; use a lower `lr`"):
        run(model, digits, recipe=recipe)


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_lack_of_memory_is_said(digits: DataSet, raised: Exception) -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise raised
            return x.flatten(1)[:, :10] * self.weight

    with pytest.raises(TrainingError, match="out of memory in epoch 1 at batch size 64"):
        run(Greedy(), digits, recipe=Recipe(epochs=1, mixed_precision="off"))


def test_other_errors_are_not_disguised(digits: DataSet) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(3, 10)), digits, recipe=Recipe(mixed_precision="off"))


@pytest.mark.parametrize("device", ["cuda:77", "warp"])
def test_a_device_that_is_not_there(digits: DataSet, device: str) -> None:
    with pytest.raises(TrainingError, match="cannot be used here"):
        run(network(), digits, device=device)


def test_bfloat16_when_asked(digits: DataSet) -> None:
    model = network()
    training = run(model, digits, recipe=Recipe(epochs=2, mixed_precision="bf16"))
    assert training.precision == "bfloat16"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert run(network(), digits, recipe=Recipe(epochs=1, mixed_precision="off")).precision == "float32"
    assert run(network(), digits, recipe=Recipe(epochs=1)).precision == "float32"  # far too small to gain by it
