"""Expected seconds: what they are before anything is recorded, and how fast records mend them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.objectives import Work
from edgesearch.search.foresight._cost import CostModel
from edgesearch.spaces import Student

SMALL, LARGE = Student(architecture="cnn_tiny"), Student(architecture="vgg_small")


def training(student: Student = SMALL, *, images: int = 1000, epochs: int = 8, share: float = 1.0, threads: int = 1) -> Work:
    return Work("student", student, 3.0 * images * epochs, share, threads)


@pytest.mark.parametrize(
    ("macs", "work", "seconds"),  # as they were measured on cores with AVX512-BF16
    [
        (37.8e6, training(images=1057), 12.3),  # cnn_small x4 at 8 x 8
        (0.157e6, training(images=1057), 0.44),  # cnn_tiny at 8 x 8
        (152e6, training(LARGE, images=47_500, epochs=1, threads=2), 190.0),
    ],
)
def test_before_anything_is_recorded_small_and_large_networks_are_right_within_a_third(
    macs: float, work: Work, seconds: float
) -> None:
    assert CostModel(bfloat16=True).seconds(work, macs) == pytest.approx(seconds, rel=0.33)


def test_records_of_a_slower_machine_mend_every_kind_and_their_own_most() -> None:
    model, other = CostModel(), Work("quantized", SMALL, 24_000.0)
    before, before_other = model.seconds(training(), 1e6), model.seconds(other, 1e6)
    for macs in (1e5, 1e6, 1e7, 1e8):
        model.observe(training(), macs, 5.0 * CostModel().seconds(training(), macs))
    assert model.observations == 4
    assert model.seconds(training(), 1e6) == pytest.approx(5.0 * before, rel=0.1)
    assert 1.5 * before_other < model.seconds(other, 1e6) < 5.0 * before_other


def test_a_slow_kind_leaves_what_was_recorded_of_others_alone() -> None:
    model, slow = CostModel(), Work("pruned", SMALL, 24_000.0)
    for _ in range(10):
        model.observe(training(), 1e6, CostModel().seconds(training(), 1e6))
        model.observe(slow, 1e6, 8.0 * CostModel().seconds(slow, 1e6))
    assert model.seconds(training(), 1e6) == pytest.approx(CostModel().seconds(training(), 1e6), rel=0.1)
    assert model.seconds(slow, 1e6) == pytest.approx(8.0 * CostModel().seconds(slow, 1e6), rel=0.1)


def test_one_record_of_a_machine_that_slept_does_not_spoil_many() -> None:
    model = CostModel()
    for _ in range(20):
        model.observe(training(), 1e6, CostModel().seconds(training(), 1e6))
    model.observe(training(), 1e6, 1e5)
    assert model.seconds(training(), 1e6) < 1.3 * CostModel().seconds(training(), 1e6)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["student", "pruned", "measured"]), st.floats(0, 1e8), st.floats(0, 1e10), st.floats(-1, 1e6)
        ),
        max_size=12,
    )
)
def test_expected_seconds_are_finite_and_positive_whatever_was_recorded(
    records: list[tuple[str, float, float, float]],
) -> None:
    model = CostModel()
    for kind, passes, macs, seconds in records:
        model.observe(Work(kind, SMALL, passes), macs, seconds)
    for kind in ("student", "pruned", "on_board"):
        seconds = model.seconds(Work(kind, LARGE, 1e5), 1e7)
        assert math.isfinite(seconds)
        assert seconds > 0
