"""Expected accuracies: what a few trials tell of other candidates, and how sure that is."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from edgesearch.search.proposals._accuracy import AccuracyModel, probability
from edgesearch.search.proposals._coordinates import Axes, Point, Rows
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student


def candidates() -> list[Candidate]:
    return [
        Candidate(
            student=Student(architecture=name, width=width, input_size=8),
            distillation=Distillation(kind=taught),
            pruning=Pruning(method=method, ratio=ratio, granularity=8) if ratio else Pruning(),
            quantization=Quantization(method=quantized),
        ).canonical()
        for name in ("cnn_tiny", "cnn_small")
        for width in (0.5, 1.0, 2.0)
        for taught in ("none", "logit")
        for method, ratio in (("one_step", 0.0), ("one_step", 0.3), ("one_step", 0.6), ("iterative", 0.3), ("iterative", 0.6))
        for quantized in ("ptq", "qat")
    ]


def work(candidate: Candidate) -> float:
    return 1e6 * candidate.student.width**2 * (4 if candidate.student.architecture == "cnn_small" else 1)


def accuracy(candidate: Candidate) -> float:
    better = 0.7 * math.log(work(candidate) / 1e6) + 0.4 * (candidate.distillation.kind == "logit")
    better += 0.2 * (candidate.quantization.method == "qat") - 4.0 * candidate.pruning.ratio**2
    return 1 / (1 + math.exp(-(1.0 + better)))


def point(candidate: Candidate) -> Point:
    left = work(candidate) * (1 - candidate.pruning.ratio)
    return Point.of(candidate, {"macs": left, "fps": 1e10 / (left + 1e6)})


class Model(AccuracyModel):
    """A model with its axes, told of candidates."""

    def __init__(self) -> None:
        self.axes = Axes()
        super().__init__(self.axes)

    def learn(self, number: int, candidate: Candidate, value: float) -> None:
        self.add(number, self.axes.row(point(candidate)), value)

    def rows(self, candidates: Sequence[Candidate]) -> Rows:
        return self.axes.join([self.axes.row(point(candidate)) for candidate in candidates])


def taught(count: int, seed: int = 0) -> tuple[Model, list[Candidate]]:
    """A model that knows `count` of the candidates, and the others."""
    model, everything = Model(), candidates()
    random.Random(seed).shuffle(everything)
    for number, candidate in enumerate(everything[:count]):
        model.learn(number, candidate, accuracy(candidate))
    return model, everything[count:]


def test_a_third_of_a_space_tells_the_rest_within_a_few_points() -> None:
    model, others = taught(40)
    mean, deviation = model.predict(model.rows(others))
    errors = np.abs(probability(mean) - [accuracy(candidate) for candidate in others])
    assert errors.mean() < 0.02
    truth = np.array([math.log(a / (1 - a)) for a in map(accuracy, others)])
    assert (np.abs(truth - mean) < 3 * deviation).mean() > 0.9


def test_more_trials_make_surer_and_what_is_far_from_all_is_less_sure() -> None:
    few, _ = taught(12)
    many, others = taught(60)
    assert many.predict(many.rows(others))[1].mean() < few.predict(few.rows(others))[1].mean()
    strange = Candidate(student=Student(architecture="resnet20", width=4.0)).canonical()
    assert many.predict(many.rows([strange]))[1][0] > 2 * many.predict(many.rows(others))[1].mean()


def test_predictions_depend_on_what_is_known_and_not_on_when_it_was_asked_for() -> None:
    asked, others = taught(0)
    some = others[:50]
    for i, candidate in enumerate(some):
        asked.learn(i, candidate, accuracy(candidate))
        if i >= 2:
            asked.predict(asked.rows(some[:1]))
    told = Model()
    for i in reversed(range(50)):
        told.learn(i, some[i], accuracy(some[i]))
    for one, other in zip(asked.predict(asked.rows(some)), told.predict(told.rows(some)), strict=True):
        assert np.array_equal(one, other)


def test_accuracies_of_nought_and_one_and_equal_ones_are_borne() -> None:
    model = Model()
    with pytest.raises(ValueError, match="at least 2"):
        model.predict(model.rows([]))
    for number, (candidate, value) in enumerate(zip(candidates()[:6], [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], strict=True)):
        model.learn(number, candidate, value)
    mean, deviation = model.predict(model.rows([candidates()[7]]))
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()
