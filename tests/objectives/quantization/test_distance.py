"""What candidates are judged by: probabilities for classes, the divergence or the square for other outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesearch.board_eval.execution import execute, run_float
from edgesearch.board_eval.graph import Conv, Graph, Input, Reshape
from edgesearch.objectives.quantization._distance import Judge, answer_distances, answers_classes, clearly_less
from edgesearch.objectives.quantization._vitis import quantize_vitis


def answer_distance(exact: Tensor, found: Tensor, *, classes: bool) -> float:
    distances = answer_distances(exact, found, classes=classes)
    assert distances.shape == (len(exact),)
    return float(distances.mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


def ending_in(shape: tuple[int, ...], reshaped: tuple[int, ...] | None = None) -> Graph:
    """A convolution that puts out `shape`, and what becomes of it."""
    weight = np.zeros((shape[2], 1, 1, 3), np.float32)
    image = Input(name="image", inputs=(), shape=(*shape[:2], 3))
    last = Conv(name="conv", inputs=("image",), shape=shape, kernel=(1, 1), weight=weight, has_bias=False)
    end = () if reshaped is None else (Reshape(name="flat", inputs=("conv",), shape=reshaped),)
    return Graph("ending", (image, last, *end))


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (ending_in((1, 1, 10)), True),
        (ending_in((1, 1, 10), (10,)), True),
        (ending_in((1, 1, 1)), False),
        (ending_in((1, 1, 1), (1,)), False),
        (ending_in((4, 4, 10)), False),
        (ending_in((4, 4, 1)), False),
    ],
)
def test_an_output_of_classes_has_several_values_at_one_place(graph: Graph, expected: bool) -> None:
    assert answers_classes(graph) is expected


def test_the_distance_of_classes_is_half_of_what_their_probabilities_moved(network: Graph, images: np.ndarray) -> None:
    quantized = quantize_vitis(network, images)
    moved = np.abs(softmax(run_float(network, images)) - softmax(execute(quantized, images))).sum(1).mean() / 2
    assert float(Judge.of(network, images).distances(quantized).mean()) == pytest.approx(moved, rel=1e-6)
    assert moved > 0


def test_the_distance_of_several_outputs_that_are_no_classes_is_their_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    exact, found = torch.randn(5, 12, generator=generator), torch.randn(5, 12, generator=generator)
    p, q = softmax(exact.numpy()), softmax(found.numpy())
    assert answer_distance(exact, found, classes=False) == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)


def test_the_distance_of_a_single_output_is_the_mean_square_error() -> None:
    assert answer_distance(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [5.0]]), classes=False) == pytest.approx(5.0)


def test_a_beyond_doubt_answer_may_move_further_than_a_close_one() -> None:
    sure, close = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, -5.0]])
    moved_far = answer_distance(sure, torch.tensor([[14.0, 0.0, 3.0]]), classes=True)
    turned = answer_distance(close, torch.tensor([[0.0, 0.1, -5.0]]), classes=True)
    assert moved_far < turned / 100


logits = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=2, max_size=2).map(torch.tensor)


@given(exact=logits, found=logits, shift=st.floats(-10, 10))
def test_distances_of_classes_lie_between_0_and_1_and_know_no_common_shift(exact: Tensor, found: Tensor, shift: float) -> None:
    distance = answer_distance(exact, found, classes=True)
    assert 0 <= distance <= 1 + 1e-12
    assert answer_distance(found, exact, classes=True) == pytest.approx(distance, abs=1e-12)
    assert answer_distance(exact, exact, classes=True) == 0
    assert answer_distance(exact.double(), found.double() + shift, classes=True) == pytest.approx(distance, abs=1e-9)


@given(exact=logits, found=logits)
def test_the_distance_bounds_the_probability_that_any_class_gains(exact: Tensor, found: Tensor) -> None:
    gained = (found.double().softmax(1) - exact.double().softmax(1)).amax(1).mean()
    assert answer_distance(exact, found, classes=True) >= float(gained) - 1e-12


@pytest.mark.parametrize(
    ("some", "others", "expected"),
    [
        ([0.1, 0.1, 0.1, 0.1], [0.2, 0.3, 0.2, 0.3], True),
        ([0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9], False),  # one image alone
        ([0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], False),
        ([0.2, 0.3, 0.2, 0.3], [0.1, 0.1, 0.1, 0.1], False),
        ([0.1], [0.9], False),
    ],
)
def test_what_is_less_by_chance_is_not_clearly_less(some: list[float], others: list[float], expected: bool) -> None:
    assert clearly_less(torch.tensor(some), torch.tensor(others)) is expected
