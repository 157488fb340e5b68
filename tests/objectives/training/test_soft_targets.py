"""The losses of logits, compared with their formulas one image and one class at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesearch.objectives.training._soft_targets import Second, SoftTargets, label_loss

temperatures = st.sampled_from([0.5, 1.0, 4.0])


def drawn(seed: int, images: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, soft = (3 * torch.randn(images, classes, generator=generator) for _ in range(2))
    return logits, torch.randint(classes, (images,), generator=generator), soft


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def nkd_by_hand(logits: Tensor, labels: Tensor, soft: Tensor, temperature: float, gamma: float) -> float:
    """Cross-entropy, the label's term, and the other classes normalised among themselves, with loops."""
    total = 0.0
    for z, label, t in zip(logits.double().tolist(), labels.tolist(), soft.double().tolist(), strict=True):
        own, theirs = softmax(z)[label], softmax(t)[label]
        others = [i for i in range(len(z)) if i != label]
        p, q = (softmax([values[i] / temperature for i in others]) for values in (t, z))
        rest = sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        total += -math.log(own) - theirs * math.log(own) - gamma * temperature**2 * rest
    return total / len(logits)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(2, 12), temperatures, st.sampled_from([0.0, 1.5, 3.0]))
def test_nkd_is_its_formula(seed: int, images: int, classes: int, temperature: float, gamma: float) -> None:
    logits, labels, soft = drawn(seed, images, classes)
    got = SoftTargets(kind="nkd", temperature=temperature, gamma=gamma)(logits, labels, soft)
    assert float(got) == pytest.approx(nkd_by_hand(logits, labels, soft, temperature, gamma), rel=1e-4, abs=1e-6)


@given(st.integers(0, 999), temperatures)
def test_gradients_of_nkd_are_finite_and_draw_the_other_classes_together(seed: int, temperature: float) -> None:
    """The published reason for the normalisation: the other classes' shares may become equal whatever the label's is."""
    logits, labels, soft = drawn(seed, 4, 6)
    logits = soft.clone().scatter_add(1, labels[:, None], torch.full((4, 1), 2.0)).requires_grad_()
    SoftTargets(kind="nkd", temperature=temperature)(logits, labels, soft).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    plain = logits.detach().clone().requires_grad_()
    hard = SoftTargets(kind="nkd", temperature=temperature, gamma=0.0)(plain, labels, soft)
    hard.backward()
    assert torch.allclose(logits.grad, plain.grad, atol=1e-5)  # type: ignore[arg-type]  # the others agree already


def test_smoothing_is_of_the_labels_and_no_teacher_leaves_the_labels_alone() -> None:
    logits, labels, soft = drawn(1, 5, 4)
    sharp, smooth = (SoftTargets(kind="nkd")(logits, labels, soft, smoothing=s) for s in (0.0, 0.2))
    hard = [F.cross_entropy(logits, labels, label_smoothing=s) for s in (0.0, 0.2)]
    assert float(smooth - sharp) == pytest.approx(float(hard[1] - hard[0]), rel=1e-4)
    for how in (SoftTargets(kind="nkd"), SoftTargets(), SoftTargets(alpha=1.0)):
        assert float(how(logits, labels, None)) == pytest.approx(float(hard[0]))
    assert float(SoftTargets(alpha=1.0)(logits, labels, soft)) == pytest.approx(float(hard[0]))
    assert SoftTargets(kind="nkd", alpha=1.0).uses_teacher


@given(
    st.integers(0, 999),
    st.sampled_from(["logit", "nkd", "labels"]),
    st.sampled_from([0.0, 0.1]),
    temperatures,
)
def test_a_mixed_image_counts_as_both_of_its_labels(seed: int, kind: str, smoothing: float, temperature: float) -> None:
    """The loss of one image at a time with either label, each as much as it counts."""
    logits, labels, soft = drawn(seed, 5, 6)
    generator = torch.Generator().manual_seed(seed)
    others, share = torch.randint(6, (5,), generator=generator), torch.rand(5, generator=generator)
    second = Second(others, share)
    if kind == "labels":
        whole = label_loss(logits, labels, smoothing=smoothing, second=second)
        spread = share[:, None] * F.one_hot(labels, 6) + (1 - share[:, None]) * F.one_hot(others, 6)
        assert float(whole) == pytest.approx(float(F.cross_entropy(logits, spread, label_smoothing=smoothing)), rel=1e-5)
        return
    how = SoftTargets(kind=kind, temperature=temperature, alpha=0.3)  # type: ignore[arg-type]
    total = 0.0
    for i in range(5):
        one = slice(i, i + 1)
        first, other = (float(how(logits[one], each[one], soft[one], smoothing=smoothing)) for each in (labels, others))
        total += float(share[i]) * first + (1 - float(share[i])) * other
    assert float(how(logits, labels, soft, smoothing=smoothing, second=second)) == pytest.approx(total / 5, rel=1e-4, abs=1e-5)
