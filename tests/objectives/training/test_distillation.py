"""The distillation loss by its formula, stored logits in place of a teacher, and what cannot be distilled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesearch.errors import TrainingError
from edgesearch.objectives.data._augmentation import show
from edgesearch.objectives.data._dataset import DataSet, DataSettings, load_data
from edgesearch.objectives.training._distillation import Batch, Loss, Supervision, stored_view, teacher_logits
from edgesearch.objectives.training._recipe import Recipe
from edgesearch.objectives.training._soft_targets import SoftTargets
from edgesearch.objectives.training._train import train


def network(width: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(train_images=200, validation_images=100))


def loss_of(model: nn.Module, how: Supervision | None, data: DataSet, smoothing: float = 0.0) -> Loss:
    device = torch.device("cpu")
    return Loss(model, how, data=data, input_size=(8, 8), label_smoothing=smoothing, device=device, seed=0)


def batch_of(data: DataSet, count: int = 16, view: int = 0) -> Batch:
    pixels = torch.tensor(data.train.images[:count])
    inputs = pixels.permute(0, 3, 1, 2) / 255 * 2 - 1
    return Batch(pixels, inputs, torch.tensor(data.train.labels[:count]), torch.arange(count) + view * len(data.train))


def value(loss: Loss, batch: Batch) -> float:
    with torch.no_grad():
        return float(loss(batch))


def by_hand(z: Tensor, t: Tensor, labels: Tensor, alpha: float, temperature: float) -> float:
    """The formula, one image and one class at a time."""
    total = 0.0
    for zs, ts, label in zip(z.double(), t.double(), labels, strict=True):
        hard = -torch.log(torch.exp(zs[label]) / torch.exp(zs).sum())
        p, q = torch.exp(ts / temperature), torch.exp(zs / temperature)
        p, q = p / p.sum(), q / q.sum()
        soft = sum(float(pk * torch.log(pk / qk)) for pk, qk in zip(p, q, strict=True))
        total += alpha * float(hard) + (1 - alpha) * temperature**2 * soft
    return total / len(z)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 5.0), (0.75, 2.0), (0.0, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize("kind", ["logit", "self"])
def test_the_loss_is_its_formula(digits: DataSet, alpha: float, temperature: float, kind: Any) -> None:
    student, teacher = network(4).eval(), network(6, seed=1).eval()
    batch = batch_of(digits)
    how = Supervision(kind=kind, temperature=temperature, alpha=alpha, teacher=teacher)
    got = value(loss_of(student, how, digits), batch)
    with torch.no_grad():
        z, t = student(batch.inputs), teacher(batch.inputs)
    assert got == pytest.approx(by_hand(z, t, batch.labels, alpha, temperature), rel=1e-4)


def test_without_distillation_it_is_cross_entropy(digits: DataSet) -> None:
    student, batch = network(4).eval(), batch_of(digits)
    expected = F.cross_entropy(student(batch.inputs), batch.labels, label_smoothing=0.1)
    assert value(loss_of(student, None, digits, 0.1), batch) == pytest.approx(float(expected.detach()))


def test_intermediate_adds_the_error_of_projected_stages(digits: DataSet) -> None:
    student, teacher = network(4).eval(), network(6, seed=1).eval()
    batch = batch_of(digits)
    base = value(loss_of(student, Supervision(teacher=teacher), digits), batch)
    loss = loss_of(student, Supervision(kind="intermediate", teacher=teacher, beta=0.3), digits)
    expected = base
    ours, theirs = batch.inputs, batch.inputs
    for projection, stage in zip(loss.projections, range(3), strict=True):
        ours, theirs = student[3 * stage : 3 * stage + 3](ours), teacher[3 * stage : 3 * stage + 3](theirs)
        expected += 0.3 * float(((projection(ours) - theirs) ** 2).mean().detach())
    assert value(loss, batch) == pytest.approx(expected, rel=1e-5)
    loss.close()
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


@pytest.mark.parametrize("stored", [False, True])
def test_a_step_is_one_pass_of_the_student_and_at_most_one_of_the_teacher(digits: DataSet, stored: bool) -> None:
    student, teacher = network(4), network(6, seed=1)
    logits = teacher_logits(teacher, digits, input_size=None, views=2, device="cpu") if stored else None
    passes = {"student": 0, "teacher": 0}

    def count(model: nn.Module, who: str) -> None:
        def hook(module: nn.Module, *_: Any) -> None:
            passes[who] += 1

        model.register_forward_hook(hook)

    for kind, expected in (("intermediate", 1), ("logit", 0 if stored else 1), ("nkd", 0 if stored else 1)):
        loss = loss_of(student, Supervision(kind=kind, teacher=teacher, stored_logits=logits), digits)
        if not passes["student"]:
            count(student, "student")
            count(teacher, "teacher")
        passes.update(student=0, teacher=0)
        loss(batch_of(digits)).backward()
        assert passes == {"student": 1, "teacher": expected}
        loss.close()


def test_logits_of_any_batch_are_alike(digits: DataSet) -> None:
    teacher = network(6, seed=1).eval()
    whole, suited, few = (
        teacher_logits(teacher, digits, input_size=None, views=2, device="cpu", batch_size=size) for size in (256, None, 3)
    )
    np.testing.assert_allclose(suited, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(few, whole, rtol=1e-4, atol=1e-5)


def test_nkd_reads_stored_logits_and_a_teacher_alike(digits: DataSet) -> None:
    student, teacher = network(4).eval(), network(6, seed=1).eval()
    stored = teacher_logits(teacher, digits, input_size=None, views=1, device="cpu")
    batch = batch_of(digits)
    live, fast = (
        value(loss_of(student, Supervision(kind="nkd", **given), digits, 0.1), batch)
        for given in ({"teacher": teacher}, {"stored_logits": stored})
    )
    assert fast == pytest.approx(live, rel=1e-4)
    with torch.no_grad():
        z, t = student(batch.inputs), teacher(batch.inputs)
    expected = SoftTargets(kind="nkd", temperature=1.0, gamma=1.5)(z, batch.labels, t, smoothing=0.1)
    assert live == pytest.approx(float(expected), rel=1e-5)


def test_stages_of_other_sizes_are_pooled_and_a_teacher_may_read_larger_images(digits: DataSet) -> None:
    student, teacher = network(4), network(6, seed=1)
    how = Supervision(kind="intermediate", teacher=teacher, teacher_input_size=16)
    loss = loss_of(student, how, digits)
    loss(batch_of(digits)).backward()
    assert all(p.grad is not None for p in loss.projections.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_stored_logits_replace_the_teacher(digits: DataSet) -> None:
    student, teacher = network(4).eval(), network(6, seed=1).eval()
    stored = teacher_logits(teacher, digits, input_size=None, views=3, device="cpu")
    assert stored.shape == (3, 200, 10)
    live, fast = (loss_of(student, how, digits) for how in (Supervision(teacher=teacher), Supervision(stored_logits=stored)))
    images, index = torch.tensor(digits.train.images), torch.arange(16)
    for number in range(3):
        pixels = show(images, stored_view("shift", 200, (8, 8), number), index)
        batch = replace(batch_of(digits, view=number), inputs=pixels.permute(0, 3, 1, 2) / 255 * 2 - 1)
        assert value(fast, batch) == pytest.approx(value(live, batch), rel=1e-4)


def test_a_student_of_stored_logits_is_shown_the_views_they_are_for(digits: DataSet) -> None:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen.append(x.flatten(1).sum(1))
            return self.weight[None].repeat(len(x), 1)

    student = Student()
    how = Supervision(stored_logits=np.zeros((2, 200, 10), np.float32))
    recipe = Recipe(epochs=4, batch_size=200, mixed_precision="off")
    train(student, digits, recipe=recipe, input_size=None, seed=0, supervision=how, device="cpu")
    images, every = torch.tensor(digits.train.images), torch.arange(200)
    assert len(student.seen) == 4
    for epoch, sums in enumerate(student.seen):
        pixels = show(images, stored_view("shift", 200, (8, 8), epoch % 2), every)
        expected = (pixels / 255 * 2 - 1).flatten(1).sum(1)
        assert torch.allclose(sums.sort().values, expected.sort().values, atol=1e-3)


def test_view_zero_is_the_images_themselves_and_the_others_are_not() -> None:
    assert stored_view("shift", 10, (8, 8), 0) is None
    one, two = (stored_view("shift", 100, (8, 8), number) for number in (1, 2))
    assert one is not None
    assert two is not None
    assert not torch.equal(one.down, two.down)


def test_without_augmentation_there_is_one_view(digits: DataSet) -> None:
    assert len(teacher_logits(network(4), digits, input_size=None, augmentation="none", device="cpu")) == 1


def test_a_teacher_helps_with_few_labels_and_is_not_changed() -> None:
    data = load_data(DataSettings(train_images=300, noise=0.1))
    teacher = network(16, seed=1)
    train(teacher, data, recipe=Recipe(epochs=20, lr=1e-2), input_size=None, seed=0, device="cpu")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = network(8)
    how = Supervision(kind="logit", alpha=0.0, teacher=teacher)  # it never sees a label
    training = train(student, data, recipe=Recipe(epochs=20, lr=1e-2), input_size=None, seed=0, supervision=how, device="cpu")
    assert training.accuracy > 0.7
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({}, "needs a teacher or its stored logits"),
        ({"kind": "intermediate", "stored_logits": np.zeros((1, 200, 10), np.float32)}, "needs a teacher$"),
        ({"teacher": nn.Identity(), "temperature": 0}, "temperature"),
        ({"kind": "nkd"}, "needs a teacher or its stored logits"),
        ({"teacher": nn.Identity(), "kind": "nkd", "nkd_temperature": -1.0}, r"temperature is -1\.0"),
        ({"teacher": nn.Identity(), "alpha": 1.5}, "alpha"),
        ({"teacher": nn.Identity(), "kind": "logits"}, "'logits'; expected one of logit, intermediate, self, nkd"),
        ({"teacher": nn.Identity(), "temperature": math.nan}, "temperature is nan"),
        ({"teacher": nn.Identity(), "beta": -1.0}, r"beta, a weight in distillation, is -1\.0"),
        ({"teacher": nn.Identity(), "kind": "nkd", "gamma": math.nan}, "gamma"),
    ],
)
def test_what_cannot_be_distilled(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        Supervision(**wrong)


def test_teachers_and_logits_that_do_not_fit(digits: DataSet) -> None:
    student = network(4)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    for how, complaint in (
        (Supervision(stored_logits=np.zeros((1, 199, 10), np.float32)), "another data set"),
        (Supervision(stored_logits=np.full((1, 200, 10), np.nan, np.float32)), "NaN"),
        (Supervision(kind="intermediate", teacher=flat), "use logit distillation"),
        (Supervision(kind="intermediate", teacher=network(4), stages=(("99", "1"),)), "no module '99'"),
        (Supervision(teacher=other), "7 classes"),
    ):
        with pytest.raises(TrainingError, match=complaint):
            train(student, digits, recipe=Recipe(epochs=1), input_size=None, seed=0, supervision=how, device="cpu")
