"""What is different where a GPU trains. Skipped where there is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.board_eval.execution import execute_all
from edgesearch.board_eval.lowering import lower
from edgesearch.errors import NotFinite
from edgesearch.objectives.data import DataSet, DataSettings, load_data, prepare
from edgesearch.objectives.quantization import QatRecipe, quantize
from edgesearch.objectives.quantization._qat import QatSettings, train_qat
from edgesearch.objectives.training import Recipe, Supervision, teacher_logits, train
from edgesearch.spaces import Student, build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "adam, clipped": {"optimizer": "adam", "clip_norm": 0.5},
    "sgd, in bfloat16": {"optimizer": "sgd", "lr": 0.01, "mixed_precision": "bf16"},
    "muon, a mean": {"optimizer": "muon", "lr": 0.02, "average_epochs": 0.5, "augmentation": "cutout"},
    "mixed, small first": {"mix": "cutmix", "mix_alpha": 1.0, "small_epochs": 1},
}


class Kept:
    """A training's checkpoint in memory."""

    def __init__(self) -> None:
        self.state: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, epoch: int, *state: Any) -> None:
        tensors, meta = state
        self.state = epoch, tensors, meta


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=600, validation_images=100))


def network(name: str = "cnn_small", dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = build(Student(architecture=name, input_size=8), channels=1, classes=10)
    return nn.Sequential(nn.Dropout(dropout), model) if dropout else model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def trained(data: DataSet, recipe: Recipe, *, model: nn.Module | None = None, **options: Any) -> Tensor:
    model = model or network()
    assert train(model, data, recipe=recipe, input_size=None, seed=3, **options).device == "cuda"
    return weights(model)


def unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesearch.objectives.training._recorded._BEFORE", math.inf)


@pytest.mark.parametrize("more", list(RECIPES.values()), ids=list(RECIPES))
def test_steps_that_are_played_again_are_those_that_are_made(
    more: dict[str, Any], digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=3, batch_size=64, **more)
    played = trained(digits, recipe)
    unrecorded(monkeypatch)
    assert torch.equal(played, trained(digits, recipe))


def test_dropout_that_is_played_again_drops_what_it_would(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=3, batch_size=64)
    played = trained(digits, recipe, model=network(dropout=0.3))
    unrecorded(monkeypatch)
    assert torch.equal(played, trained(digits, recipe, model=network(dropout=0.3)))


@pytest.mark.parametrize("how", ["stored", "on the fly", "at another size", "features"])
def test_a_teacher_is_followed_in_steps_that_are_played_again(
    how: str, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = network("resnet8").eval()
    choices: dict[str, dict[str, Any]] = {
        "stored": {"stored_logits": teacher_logits(teacher, digits, input_size=None, views=2, device="cuda")},
        "on the fly": {"teacher": teacher},
        "at another size": {"teacher": teacher, "teacher_input_size": 16},
        "features": {"teacher": teacher, "kind": "intermediate"},
    }
    recipe, chosen = Recipe(epochs=3, batch_size=64), choices[how]
    told: list[str] = []
    played = trained(digits, recipe, supervision=Supervision(**chosen), note=told.append)
    assert not told
    unrecorded(monkeypatch)
    assert torch.equal(played, trained(digits, recipe, supervision=Supervision(**chosen)))


@pytest.mark.parametrize("name", ["cnn_small", "mobile_small"])
@pytest.mark.parametrize("more", list(RECIPES.values()), ids=list(RECIPES))
def test_a_training_that_goes_on_is_one_that_never_stopped(name: str, more: dict[str, Any], digits: DataSet) -> None:
    if name == "mobile_small" and "small_epochs" in more:
        more = {**more, "small_epochs": 0}
    recipe, kept = Recipe(epochs=3, batch_size=64, **more), Kept()
    whole = trained(digits, recipe, model=network(name))
    trained(digits, recipe, model=network(name), checkpoints=kept, stop_after=1)
    assert torch.equal(whole, trained(digits, recipe, model=network(name), checkpoints=kept))


class Asks(nn.Module):
    """A network that looks at a value on its way, as no recording can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 2 if float(x.detach().sum()) > 1e9 else x)  # type: ignore[no-any-return]


def test_a_network_that_asks_for_values_is_trained_step_by_step(digits: DataSet) -> None:
    told: list[str] = []
    recipe = Recipe(epochs=2, batch_size=64)
    asking = trained(digits, recipe, model=Asks(), note=told.append)
    assert torch.equal(asking, trained(digits, recipe))
    assert len(told) == 1
    assert "cannot be recorded" in told[0]


def test_numbers_that_are_not_finite_are_found_when_the_epoch_ends(digits: DataSet) -> None:
    with pytest.raises(NotFinite, match=r"the loss is .* in epoch \d"):
        trained(digits, Recipe(epochs=3, batch_size=64, optimizer="sgd", lr=1e6, warmup_epochs=0))


def test_memory_is_told_before(digits: DataSet) -> None:
    model = build(Student(architecture="resnet18", input_size=32, width=0.5, stem="small"), channels=1, classes=10)
    training = train(model, digits, recipe=Recipe(epochs=1, batch_size=64), input_size=32, seed=0)
    assert training.peak_bytes == pytest.approx(training.predicted_bytes, rel=0.2)


@pytest.mark.parametrize("name", ["cnn_small", "mobile_small", "resnet8"])
def test_integers_are_those_of_a_cpu(name: str, digits: DataSet) -> None:
    images = prepare(digits.train.images[:64], None, digits.normalisation)
    quantized = quantize(lower(network(name).eval(), (1, 8, 8)), images[:32], method="vitis", device="cuda")
    ours, theirs = (execute_all(quantized, images, device=device) for device in ("cuda", "cpu"))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert np.array_equal(ours[key], value), key


@pytest.mark.parametrize("frozen", [0.0, 0.6])
def test_qat_that_is_played_again_is_qat(frozen: float, digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesearch.objectives.quantization._qat.FREEZE_AFTER", frozen)
    recipe, settings = QatRecipe(epochs=4, batch_size=64), QatSettings(method="vitis")
    images = prepare(digits.validation.images, None, digits.normalisation)
    told: list[str] = []

    def integers() -> Any:
        made = train_qat(network(), digits, recipe=recipe, input_size=None, settings=settings, device="cuda", note=told.append)
        assert made.training.device == "cuda"
        return list(execute_all(made.graph, images).values())

    played = integers()
    assert not told
    unrecorded(monkeypatch)
    for one, other in zip(played, integers(), strict=True):
        assert np.array_equal(one, other)
