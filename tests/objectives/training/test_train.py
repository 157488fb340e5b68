"""Training learns, is the same for the same seed, goes on where it stopped, and says why it fails."""

from __future__ import annotations

import itertools
import math
import random
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
from edgesearch.objectives.training._train import Training, train


def network(width: int = 6, classes: int = 10, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2 * width, classes),
    )


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


def same(one: nn.Module, other: nn.Module) -> bool:
    other_state = other.state_dict()
    return all(torch.equal(value, other_state[name]) for name, value in one.state_dict().items())


def run(model: nn.Module, data: DataSet, **changes: Any) -> Training:
    options: dict[str, Any] = {"recipe": Recipe(epochs=4), "input_size": None, "seed": 3, "device": "cpu"}
    return train(model, data, **(options | changes))


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
