"""Training on mixed images: labels go with pixels, the teacher sees what the student sees, and pieces change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data import DataSet, DataSettings, load_data
from edgesearch.objectives.data._dataset import Split
from edgesearch.objectives.training import Recipe, Supervision, Training, evaluate, train
from edgesearch.objectives.training._batches import Batches
from edgesearch.objectives.training._distillation import Loss, teacher_logits

MIXES = ["mixup", "cutmix"]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=130, validation_images=80))


def run(model: nn.Module, data: DataSet, mix: Any, **changes: Any) -> Training:
    supervision = changes.pop("supervision", None)
    recipe = Recipe(**{"epochs": 2, "batch_size": 33, "mix": mix, "mixed_precision": "off", **changes})
    return train(model, data, recipe=recipe, input_size=None, seed=3, device="cpu", supervision=supervision)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("views", ["none", "shift"])
def test_labels_go_with_the_pixels(digits: DataSet, mix: Any, views: Any) -> None:
    """Each image is of one grey, which tells its label: moved it stays so."""
    labels = digits.train.labels
    grey = np.broadcast_to((20 * labels).astype(np.uint8)[:, None, None, None], digits.train.images.shape).copy()
    data = DataSet(**{**vars(digits), "train": Split(grey, labels)})
    recipe = Recipe(batch_size=33, mix=mix, augmentation=views)
    batches = Batches(data, recipe, size=(8, 8), seed=1, device=torch.device("cpu"), stored=None)
    seen = []
    for batch in batches(0):
        assert batch.second is not None
        expected = 20 * (batch.second.share * batch.labels + (1 - batch.second.share) * batch.second.labels)
        assert torch.allclose(batch.pixels.float().flatten(1).mean(1), expected, atol=0.51)
        assert torch.allclose(batch.inputs[:, 0], batch.pixels[..., 0] / 127.5 - 1, atol=1e-6)
        seen += batch.index.tolist()
        assert torch.equal(batch.labels, torch.tensor(labels)[batch.index])
    assert sorted(seen) == list(range(len(labels)))


@pytest.mark.parametrize("mix", MIXES)
def test_batches_do_not_depend_on_how_many_are_made_at_a_time(
    digits: DataSet, mix: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(batch_size=33, mix=mix, augmentation="randaugment")
    batches = Batches(digits, recipe, size=(8, 8), seed=1, device=torch.device("cpu"), stored=None)
    whole = list(batches(1))
    monkeypatch.setattr("edgesearch.objectives.training._batches._CACHED_BYTES", 1)
    for one, other in zip(whole, batches(1), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert one.second is not None
        assert other.second is not None
        assert all(torch.equal(a, b) for a, b in zip(one.second, other.second, strict=True))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", ["logit", "self", "intermediate", "nkd"])
def test_the_teacher_sees_what_the_student_sees(digits: DataSet, mix: Any, kind: Any) -> None:
    student, teacher = network(), network(1)
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for model, images in zip((student, teacher), seen, strict=True):
        model.register_forward_pre_hook(
            lambda module, inputs, images=images: images.append(inputs[0].clone()) if len(inputs[0]) > 4 else None
        )
    run(student, digits, mix, supervision=Supervision(kind=kind, teacher=teacher), augmentation="cutout")
    shown = seen[0][: len(seen[1])]  # the rest are validation images; memory is foretold with up to four
    assert len(shown) == 8
    assert all(torch.equal(one, other) for one, other in zip(shown, seen[1], strict=True))


def test_stored_logits_are_not_of_mixed_images(digits: DataSet) -> None:
    logits = teacher_logits(network(1), digits, input_size=None, augmentation="none", device="cpu")
    with pytest.raises(TrainingError, match="stored logits are of single images, and mix = 'mixup' shows two in one"):
        run(network(), digits, "mixup", supervision=Supervision(stored_logits=logits), augmentation="none")


@pytest.mark.parametrize("mix", MIXES)
def test_validation_images_are_not_mixed(digits: DataSet, mix: Any) -> None:
    model = network()
    training = run(model, digits, mix)
    assert training.accuracy == evaluate(model, digits.validation, input_size=None, normalisation=digits.normalisation)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("taught", [False, True])
def test_halves_of_a_batch_are_mixed_as_the_whole(
    digits: DataSet, mix: Any, taught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> tuple[Tensor, int]:
        model = network()
        supervision = Supervision(kind="nkd", teacher=network(1)) if taught else None
        pieces = run(model, digits, mix, supervision=supervision, label_smoothing=0.1, optimizer="sgd", lr=0.05).pieces
        return torch.cat([p.detach().flatten() for p in model.parameters()]), pieces

    whole, one = trained()
    real = Loss.__call__

    def limited(loss: Loss, batch: Any) -> Tensor:
        if len(batch.labels) > 20:
            raise MemoryError
        return real(loss, batch)

    monkeypatch.setattr(Loss, "__call__", limited)
    halves, two = trained()
    assert (one, two) == (1, 2)
    assert torch.allclose(whole, halves, atol=1e-5)


def test_mixing_changes_the_training_and_follows_the_seed(digits: DataSet) -> None:
    models = [network() for _ in range(4)]
    for model, mix in zip(models, ("none", "mixup", "mixup", "cutmix"), strict=True):
        run(model, digits, mix)
    plain, one, again, other = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(one, again)
    assert not torch.equal(plain, one)
    assert not torch.equal(one, other)
